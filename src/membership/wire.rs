//! Datagrams: `version u16 LE · kind u8 · payload`, at most 1,100 bytes.
//!
//! Kind 1 is foca's own packet. Kind 2 is a view: who sends it, then members one after the other until the end. It
//! repairs what gossip lost, tells the accused, and says goodbye. Kinds only grow at the end; others are dropped.

use crate::Identity;
use bytes::{BufMut, Bytes, BytesMut};
use foca::Member;
use hydfs_types::{PROTOCOL_MAX, PROTOCOL_MIN};
use serde::{Deserialize, Serialize};

/// Largest datagram in bytes: what QUIC carries before it knows the path.
pub const DATAGRAM_BYTES_MAX: usize = 1100;
const PREFIX_BYTES: usize = 3;
/// Largest packet of foca in bytes.
pub(crate) const FOCA_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - PREFIX_BYTES;

/// What a datagram carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Foca = 1,
    View = 2,
}

/// What one member knows of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub head: ViewHead,
    pub members: Vec<Member<Identity>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ViewHead {
    pub from: Identity,
    /// The sender stops on purpose; it lists itself as down.
    pub leaving: bool,
}

/// A datagram of this kind.
pub(crate) fn wrap(kind: Kind, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + payload.len());
    out.put_u16_le(PROTOCOL_MAX);
    out.put_u8(kind as u8);
    out.put_slice(payload);
    out.freeze()
}

/// Kind and payload, or `None` if the datagram is not ours.
pub(crate) fn unwrap(datagram: &[u8]) -> Option<(Kind, &[u8])> {
    if datagram.len() > DATAGRAM_BYTES_MAX {
        return None;
    }
    let (prefix, payload) = datagram.split_first_chunk::<PREFIX_BYTES>()?;
    let version = u16::from_le_bytes([prefix[0], prefix[1]]);
    if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&version) {
        return None;
    }
    let kind = match prefix[2] {
        1 => Kind::Foca,
        2 => Kind::View,
        _ => return None,
    };
    Some((kind, payload))
}

impl View {
    /// The datagram, with as many of the members as fit, in their order.
    pub fn wrap(head: &ViewHead, members: impl Iterator<Item = Member<Identity>>) -> Option<Bytes> {
        let mut payload = postcard::to_stdvec(head).ok()?;
        for member in members {
            let more = postcard::to_stdvec(&member).ok()?;
            if payload.len() + more.len() > FOCA_BYTES_MAX {
                break;
            }
            payload.extend_from_slice(&more);
        }
        Some(wrap(Kind::View, &payload))
    }

    /// Reads a payload; all of it or nothing.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (head, mut rest) = postcard::take_from_bytes::<ViewHead>(payload).ok()?;
        let mut members = Vec::new();
        while !rest.is_empty() {
            let (member, after) = postcard::take_from_bytes(rest).ok()?;
            members.push(member);
            rest = after;
        }
        Some(Self { head, members })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use foca::State;

    fn identity(name: &str) -> Identity {
        Identity {
            name: name.into(),
            addr: ([127, 0, 0, 1], 7000).into(),
            generation: 3 << 16,
        }
    }

    /// Golden bytes: another version has to read them.
    #[test]
    fn a_view_is_these_bytes() {
        let head = ViewHead {
            from: identity("a"),
            leaving: false,
        };
        let member = Member::new(identity("b"), 2, State::Suspect);
        let bytes = View::wrap(&head, [member.clone()].into_iter()).unwrap();
        let address = [0, 127, 0, 0, 1, 0xd8, 0x36];
        let from = [&[1, b'a'][..], &address, &[0x80, 0x80, 12, 0]].concat();
        let listed = [&[1, b'b'][..], &address, &[0x80, 0x80, 12, 2, 1]].concat();
        assert_eq!(bytes[..], [&[1, 0, 2][..], &from, &listed].concat()[..]);
        let (kind, payload) = unwrap(&bytes).unwrap();
        assert_eq!(kind, Kind::View);
        assert_eq!(
            View::read(payload),
            Some(View {
                head,
                members: vec![member]
            })
        );
    }

    #[test]
    fn a_view_holds_what_fits() {
        let head = ViewHead {
            from: identity("a"),
            leaving: true,
        };
        let many =
            (0..200).map(|at| Member::new(identity(&format!("member-{at}")), 0, State::Alive));
        let bytes = View::wrap(&head, many).unwrap();
        assert!(bytes.len() <= DATAGRAM_BYTES_MAX && bytes.len() > DATAGRAM_BYTES_MAX - 40);
        assert!(View::read(unwrap(&bytes).unwrap().1).unwrap().members.len() > 40);
    }

    #[test]
    fn foreign_datagrams_are_refused() {
        assert_eq!(unwrap(&[]), None);
        assert_eq!(unwrap(&[1, 0]), None);
        assert_eq!(unwrap(&[9, 9, 1, 0]), None, "another version");
        assert_eq!(unwrap(&[1, 0, 77, 0]), None, "an unknown kind");
        assert_eq!(unwrap(&[1; DATAGRAM_BYTES_MAX + 1]), None, "too long");
        let cut = View::wrap(
            &ViewHead {
                from: identity("a"),
                leaving: false,
            },
            std::iter::empty(),
        )
        .unwrap();
        assert_eq!(View::read(&cut[3..cut.len() - 1]), None);
    }

    /// Every single damage of a datagram, and every cut: none is read beyond its end, and nothing that is read is more
    /// than the bytes could hold.
    #[test]
    fn fault_m7_damaged_datagrams_are_read_or_refused_without_harm() {
        let head = ViewHead {
            from: identity("a"),
            leaving: false,
        };
        let member = Member::new(identity("b"), 2, State::Suspect);
        let bytes = View::wrap(&head, [member].into_iter()).unwrap().to_vec();
        let read = |bytes: &[u8]| {
            if let Some((Kind::View, payload)) = unwrap(bytes) {
                let members = View::read(payload).map_or(0, |view| view.members.len());
                assert!(members <= payload.len());
            }
        };
        for at in 0..bytes.len() {
            read(&bytes[..at]);
            for byte in 0..=u8::MAX {
                let mut damaged = bytes.clone();
                damaged[at] = byte;
                read(&damaged);
                // The byte after it as large as can be: lengths grow with both.
                if let Some(next) = damaged.get_mut(at + 1) {
                    *next = 0xff;
                    read(&damaged);
                }
            }
        }
    }

    #[test]
    fn fuzz_datagram() {
        let head = ViewHead {
            from: identity("a"),
            leaving: false,
        };
        let members = ["b", "c"].map(|name| Member::new(identity(name), 2, State::Suspect));
        let view = View::wrap(&head, members.into_iter()).unwrap();
        let shapes = hydfs_fuzz::Target::new(env!("CARGO_MANIFEST_DIR"), "datagram")
            .seeds([view.to_vec(), wrap(Kind::Foca, &view[3..]).to_vec()])
            .run(|bytes| match unwrap(bytes) {
                None => "nothing".into(),
                Some((Kind::View, payload)) => View::read(payload)
                    .map_or_else(String::new, |view| format!("{:?}", view.members)),
                Some((kind, _)) => format!("{kind:?}"),
            });
        assert!(shapes > 5, "{shapes}");
    }
}
