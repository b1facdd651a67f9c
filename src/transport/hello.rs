//! The hello: what both ends say first on every connection, and when they refuse each other.
//!
//! `magic "HYDF" · hello format u16 LE · postcard`. The format number stands apart from the protocol version: members
//! of any two versions must be able to tell each other why they cannot talk. Nothing else is served before it passed.

use hydfs_types::{ClusterId, Incarnation, MemberId, PROTOCOL_MAX, PROTOCOL_MIN};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Largest hello in bytes.
pub(crate) const HELLO_BYTES_MAX: usize = 1_024;
/// Largest reason that travels in a close, in bytes: fits one packet.
pub(crate) const REASON_BYTES_MAX: usize = 800;

const MAGIC: [u8; 4] = *b"HYDF";
const FORMAT: u16 = 1;

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol_min: u16,
    pub(crate) protocol_max: u16,
    /// None until it has joined one.
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) name: String,
    /// Where it serves.
    pub(crate) addr: SocketAddr,
    pub(crate) member: Option<MemberId>,
    pub(crate) incarnation: Option<Incarnation>,
}

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        postcard::to_extend(self, out).expect("in-memory encoding of our own types cannot fail")
    }

    /// The hello in `bytes`, or why there is none.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Some(rest) = bytes.strip_prefix(&MAGIC) else {
            return Err("no hello of hydfs".into());
        };
        let Some((format, rest)) = rest.split_at_checked(2) else {
            return Err("a hello that is cut short".into());
        };
        let format = u16::from_le_bytes([format[0], format[1]]);
        if format != FORMAT {
            return Err(format!(
                "a hello of format {format}, this side reads {FORMAT}: run the same hydfs version on both"
            ));
        }
        postcard::from_bytes(rest).map_err(|error| format!("a malformed hello ({error})"))
    }

    /// Why `ours` and `theirs` cannot talk, as a text for both sides' logs; `certified` is the name in their certificate.
    pub(crate) fn objection(ours: &Self, theirs: &Self, certified: &str) -> Option<String> {
        if theirs.name != certified {
            return Some(format!(
                "member {:?} shows a certificate of {certified:?}: start it under the name that its certificate has",
                theirs.name
            ));
        }
        if theirs.protocol_min > ours.protocol_max || theirs.protocol_max < ours.protocol_min {
            return Some(format!(
                "{} speaks protocol {}..{}, {} speaks {}..{}: upgrade the older one",
                theirs.name,
                theirs.protocol_min,
                theirs.protocol_max,
                ours.name,
                ours.protocol_min,
                ours.protocol_max
            ));
        }
        match (ours.cluster, theirs.cluster) {
            (Some(here), Some(there)) if here != there => {
                Some(other_cluster(&ours.name, here, &theirs.name, there))
            }
            _ => None,
        }
    }

    pub(crate) fn new(name: &str, addr: SocketAddr, who: crate::Who) -> Self {
        Self {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            cluster: who.cluster,
            name: name.into(),
            addr,
            member: who.member,
            incarnation: who.incarnation,
        }
    }
}

/// The text for members of two clusters.
pub(crate) fn other_cluster(
    name: &str,
    cluster: ClusterId,
    other: &str,
    others: ClusterId,
) -> String {
    format!(
        "{name} is in cluster {cluster}, {other} in cluster {others}: \
         correct the seed address, or start the one that is to change with an empty data folder"
    )
}

/// Cuts a reason to what a close can carry, at a character's edge.
pub(crate) fn cut_reason(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: &str, cluster: Option<u8>) -> Hello {
        Hello {
            protocol_min: 1,
            protocol_max: 2,
            cluster: cluster.map(|byte| ClusterId([byte; 16])),
            name: name.into(),
            addr: "10.1.2.3:7000".parse().unwrap(),
            member: Some(MemberId(3)),
            incarnation: Some(Incarnation(300)),
        }
    }

    #[test]
    fn golden_bytes() {
        let text: String = hello("vm1", Some(0xab))
            .encode()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(
            text,
            "4859444601000102\
             01abababababababababababababababab\
             03766d31000a010203d836\
             0103\
             01ac02"
        );
        assert_eq!(
            Hello::decode(&hello("vm1", Some(0xab)).encode()).unwrap(),
            hello("vm1", Some(0xab))
        );
    }

    #[test]
    fn mutated_hellos_are_errors_not_panics() {
        let good = hello("vm1", Some(1)).encode();
        for at in 0..good.len() {
            assert!(Hello::decode(&good[..at]).is_err(), "cut at {at}");
            for flip in [1, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                if let Ok(read) = Hello::decode(&bytes) {
                    assert_ne!(read, hello("vm1", Some(1)));
                }
            }
        }
    }

    #[test]
    fn objections_say_what_to_do() {
        let ours = hello("vm1", Some(1));
        assert_eq!(Hello::objection(&ours, &hello("vm2", Some(1)), "vm2"), None);
        assert_eq!(Hello::objection(&ours, &hello("vm2", None), "vm2"), None);
        assert!(
            Hello::objection(&ours, &hello("vm2", Some(2)), "vm2")
                .unwrap()
                .contains("empty data folder")
        );
        assert!(
            Hello::objection(&ours, &hello("vm2", Some(1)), "vm3")
                .unwrap()
                .contains("its certificate has")
        );
        let newer = Hello {
            protocol_min: 3,
            protocol_max: 4,
            ..hello("vm2", Some(1))
        };
        assert!(
            Hello::objection(&ours, &newer, "vm2")
                .unwrap()
                .contains("upgrade the older")
        );
    }

    #[test]
    fn reasons_are_cut_at_characters() {
        assert_eq!(cut_reason("short"), "short");
        assert_eq!(cut_reason(&"ä".repeat(900)).len(), REASON_BYTES_MAX);
        assert_eq!(
            cut_reason(&format!("x{}", "ä".repeat(900))).len(),
            REASON_BYTES_MAX - 1
        );
    }

    #[test]
    fn fuzz_hello() {
        let seeds = [hello("n1", Some(7)), hello("n2", None)].map(|hello| hello.encode());
        let shapes = hydfs_fuzz::Target::new(env!("CARGO_MANIFEST_DIR"), "hello")
            .seeds(seeds)
            .run(|bytes| {
                let read = Hello::decode(bytes);
                if let Ok(theirs) = &read {
                    drop(Hello::objection(&hello("n1", Some(7)), theirs, "n1"));
                }
                hydfs_fuzz::seen(&read)
            });
        assert!(shapes > 5, "{shapes}");
    }
}
