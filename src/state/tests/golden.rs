//! Commands as bytes. A change here is a change of the agreement log: old members cannot read it.

use hydfs_types::*;

fn golden(command: Command, wanted: &str) {
    let envelope = Envelope {
        session: SessionId(300),
        seq: 2,
        done_through: 1,
        incarnation: Incarnation(4),
        time: Time {
            sec: 1_700_000_000,
            nsec: 5,
        },
        command,
    };
    let bytes = encode(&envelope);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, wanted, "{:?}", envelope.command);
    assert_eq!(decode::<Envelope>(&bytes).unwrap(), envelope);
}

#[test]
fn commands_keep_their_bytes() {
    golden(
        Command::Bootstrap {
            cluster: ClusterId([0xab; 16]),
            copies: 3,
        },
        "",
    );
}
