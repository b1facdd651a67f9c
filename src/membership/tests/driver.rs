//! The driver on virtual time, over a network in memory that delivers at once.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use hydfs_membership::{Expected, Identity, Membership, Options, SeenState};
use hydfs_types::{BoxFuture, Frame, Net, NetError};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

type Doors = Arc<Mutex<BTreeMap<SocketAddr, Weak<Membership>>>>;

struct Wire {
    at: SocketAddr,
    doors: Doors,
}

impl Net for Wire {
    fn call(
        &self,
        to: SocketAddr,
        _: Frame,
        _: Duration,
    ) -> BoxFuture<'static, Result<Frame, NetError>> {
        Box::pin(async move {
            Err(NetError::Unreachable {
                addr: to,
                why: "datagrams only".into(),
            })
        })
    }

    fn send_datagram(&self, to: SocketAddr, payload: Bytes) {
        let door = self.doors.lock().unwrap().get(&to).and_then(Weak::upgrade);
        if let Some(door) = door {
            door.handle_datagram(self.at, payload);
        }
    }

    fn local_addr(&self) -> SocketAddr {
        self.at
    }
}

fn addr(at: u8) -> SocketAddr {
    ([10, 0, 0, at], 7000).into()
}

fn member(doors: &Doors, at: u8) -> Arc<Membership> {
    let net = Arc::new(Wire {
        at: addr(at),
        doors: doors.clone(),
    });
    let me = Identity::new(&format!("vm{at}"), addr(at), 1 << 16).unwrap();
    let membership = Membership::start(net, me, Options::default(), u64::from(at));
    doors
        .lock()
        .unwrap()
        .insert(addr(at), Arc::downgrade(&membership));
    membership
}

fn state(membership: &Membership, name: &str) -> Option<SeenState> {
    membership
        .view()
        .into_iter()
        .find(|seen| seen.name == name)
        .map(|seen| seen.state)
}

async fn until(membership: &Membership, name: &str, wanted: SeenState) {
    let mut changes = membership.watch();
    let reached = async {
        while state(membership, name) != Some(wanted) {
            changes.changed().await.unwrap();
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(12), reached).await;
    assert!(
        waited.is_ok(),
        "{name} is {:?}, not {wanted:?}",
        state(membership, name)
    );
}

#[tokio::test(start_paused = true)]
async fn members_meet_miss_and_forget_each_other() {
    let doors = Doors::default();
    let [a, b, c] = [1, 2, 3].map(|at| member(&doors, at));
    b.announce(vec![addr(1)]);
    c.announce(vec![addr(9), addr(2)]);
    until(&a, "vm3", SeenState::Alive).await;
    until(&c, "vm1", SeenState::Alive).await;

    // Dropped without a word.
    drop(b);
    until(&a, "vm2", SeenState::Down).await;
    until(&c, "vm2", SeenState::Down).await;
    let opinions = [a.opinion("vm2"), c.opinion("vm2")];
    assert!(opinions.iter().all(|o| o.down && o.by >= 1), "{opinions:?}");
    let expected = |at: u8| Expected {
        name: format!("vm{at}").into(),
        addr: addr(at),
    };
    a.seed_members(vec![expected(1), expected(3)]);
    assert_eq!(state(&a, "vm2"), None, "no longer listed");

    c.leave();
    until(&a, "vm3", SeenState::Down).await;
    assert_eq!(a.opinion("vm3").evidence, "said that it leaves");
    a.remove("vm3");
    assert_eq!(state(&a, "vm3"), None);
    let counters = a.counters();
    assert!(
        counters.messages_in > 0 && counters.messages_out > 0 && counters.downs == 2,
        "{counters:?}"
    );
}

/// The receive path is no future, needs no runtime and waits for nothing: this thread has no runtime to wait in.
#[test]
fn fault_m6_receiving_never_waits() {
    let doors = Doors::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let [a, b] = {
        let _inside = runtime.enter();
        [1, 2].map(|at| member(&doors, at))
    };
    b.announce(vec![addr(1)]);
    // Greeting, answer and whatever followed went back and forth inside that one call.
    assert_eq!(
        [state(&a, "vm2"), state(&b, "vm1")],
        [Some(SeenState::Alive); 2]
    );
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                (0..1000)
                    .for_each(|_| a.handle_datagram(addr(2), Bytes::from_static(b"\x01\x00\x01?")))
            });
        }
    });
    assert_eq!(a.counters().malformed, 4000);
}
