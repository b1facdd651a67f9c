//! Decimal numbers with up to nine digits behind the point, as whole numbers of 10^-9: sums are exact, and the same
//! in whatever order lines arrive. Exponents, infinities and NaN are no numbers here.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Digits behind the point.
const SCALE: usize = 9;
const ONE: i128 = 1_000_000_000;

/// A number, in units of 10^-9.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Decimal(pub i128);

impl Decimal {
    /// Reads `text` (spaces around it are fine); `None` if it is no such number.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii();
        let (minus, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        let point = memchr::memchr(b'.', digits);
        let (whole, part) = match point {
            Some(at) => (&digits[..at], &digits[at + 1..]),
            None => (digits, &[][..]),
        };
        if part.len() > SCALE || (whole.is_empty() && part.is_empty()) {
            return None;
        }
        // All 28 digits before the point fit, and whatever a sum may come to: results are read again where they are put together.
        let mut value: i128 = 0;
        for &digit in whole.iter().chain(part) {
            if !digit.is_ascii_digit() {
                return None;
            }
            value = value.checked_mul(10)?.checked_add((digit - b'0').into())?;
        }
        value = value.checked_mul(10_i128.pow((SCALE - part.len()) as u32))?;
        Some(Self(if minus { -value } else { value }))
    }

    /// A whole number.
    pub fn whole(number: i64) -> Self {
        Self(i128::from(number) * ONE)
    }

    /// The sum; `None` if it does not fit (beyond 10^29).
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The quotient, cut off behind the ninth digit.
    pub fn divided_by(self, count: u64) -> Self {
        Self(self.0 / i128::from(count.max(1)))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (
            self.0.unsigned_abs() / ONE as u128,
            self.0.unsigned_abs() % ONE as u128,
        );
        if self.0 < 0 {
            f.write_str("-")?;
        }
        write!(f, "{whole}")?;
        if part > 0 {
            let digits = format!("{part:09}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_shown_exactly() {
        for (text, shown) in [
            ("0", "0"),
            (" -12 ", "-12"),
            ("+0.50", "0.5"),
            (".25", "0.25"),
            ("-0.000000001", "-0.000000001"),
            ("9007199254740993", "9007199254740993"),
        ] {
            assert_eq!(Decimal::parse(text.as_bytes()).unwrap().to_string(), shown);
        }
        for wrong in ["", "-", ".", "1e3", "1.0000000001", "0x1", "1,5", "NaN"] {
            assert_eq!(Decimal::parse(wrong.as_bytes()), None, "{wrong}");
        }
        let nines = Decimal::parse(&[b'9'; 28]).unwrap();
        let sum = nines.checked_add(nines).unwrap();
        assert_eq!(Decimal::parse(sum.to_string().as_bytes()), Some(sum));
        assert_eq!(Decimal::parse(&[b'9'; 40]), None);
        let tenth = Decimal::parse(b"0.1").unwrap();
        let sum = (0..10).fold(Decimal::default(), |sum, _| sum.checked_add(tenth).unwrap());
        assert_eq!(sum, Decimal::whole(1));
        assert_eq!(Decimal::whole(1).divided_by(3).to_string(), "0.333333333");
    }
}
