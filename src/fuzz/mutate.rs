//! New inputs from known ones.

/// Values that borders are at.
const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'"', b' '];

/// xorshift64*: the same sequence for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        match self.below(3) {
            0 => EDGES[self.below(EDGES.len())],
            _ => self.next() as u8,
        }
    }
}

/// One of the known inputs, changed in one to four ways.
pub fn mutated(random: &mut Random, known: &[Vec<u8>], bytes_max: usize) -> Vec<u8> {
    let mut input = known[random.below(known.len())].clone();
    for _ in 0..=random.below(4) {
        change(random, &mut input, known);
    }
    input.truncate(bytes_max);
    input
}

fn change(random: &mut Random, input: &mut Vec<u8>, known: &[Vec<u8>]) {
    if input.is_empty() {
        input.extend((0..=random.below(16)).map(|_| random.byte()));
        return;
    }
    let at = random.below(input.len());
    let span = 1 + random.below((input.len() - at).min(32));
    match random.below(8) {
        0 => input[at] ^= 1 << random.below(8),
        1 => input[at] = random.byte(),
        2 => input[at] = input[at].wrapping_add(1),
        3 => input.insert(at, random.byte()),
        4 => drop(input.drain(at..at + span)),
        5 => {
            let again = input[at..at + span].to_vec();
            input.splice(at..at, again);
        }
        6 => {
            let other = &known[random.below(known.len())];
            let from = random.below(other.len() + 1);
            input.splice(at.., other[from..].iter().copied());
        }
        // A length that is larger than anything, as postcard writes it.
        _ => drop(input.splice(at..at + span, [0xff, 0xff, 0xff, 0xff, 0x0f])),
    }
}
