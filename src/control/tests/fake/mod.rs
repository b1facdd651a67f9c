//! A member over the in-memory file system, and a network that leads from its address to staging areas.

use bytes::Bytes;
use hydfs_control::{
    Drain, Error, FileCopies, Kind, Liveness, Member, MemberRow, Staging, Status, StoredRow,
    Suspicion,
};
use hydfs_mount::{Answer, Caller, FileSystem, FsError, MemoryFs, Request};
use hydfs_types::{BoxFuture, Frame, Net, NetError, Peer};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Counts how many writes are under way at once, so that tests see concurrency.
#[derive(Default)]
pub struct Watched {
    inner: MemoryFs,
    now: Arc<AtomicUsize>,
    pub most: Arc<AtomicUsize>,
    pub fail_writes: AtomicBool,
}

impl FileSystem for Watched {
    fn call(
        &self,
        caller: Caller,
        request: Request,
    ) -> BoxFuture<'static, Result<Answer, FsError>> {
        let write = matches!(request, Request::Write { .. });
        if write && self.fail_writes.load(Ordering::Relaxed) {
            return Box::pin(async { Err(FsError::NoSpace("the test says so".into())) });
        }
        let answer = self.inner.call(caller, request);
        let (now, most) = (self.now.clone(), self.most.clone());
        Box::pin(async move {
            if write {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(50)).await;
                now.fetch_sub(1, Ordering::SeqCst);
            }
            answer.await
        })
    }
}

pub struct FakeNet {
    me: SocketAddr,
    others: BTreeMap<SocketAddr, Arc<Staging>>,
}

impl Net for FakeNet {
    fn call(
        &self,
        to: SocketAddr,
        frame: Frame,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, NetError>> {
        let from = Peer {
            name: "n1".into(),
            addr: self.me,
            member: None,
        };
        let other = self.others.get(&to).cloned();
        Box::pin(async move {
            match other {
                Some(staging) => Ok(staging.serve(&from, frame).await),
                None => Err(NetError::Unreachable {
                    addr: to,
                    why: "cut".into(),
                }),
            }
        })
    }
    fn send_datagram(&self, _to: SocketAddr, _payload: Bytes) {}
    fn local_addr(&self) -> SocketAddr {
        self.me
    }
}

pub struct FakeMember {
    pub fs: Arc<Watched>,
    net: Arc<FakeNet>,
    staging: Arc<Staging>,
    rows: Vec<MemberRow>,
    suspicion: AtomicBool,
}

impl FakeMember {
    /// Member n1 of three live ones and a dead n4; n5 is alive for all we know, but not reachable.
    pub fn new() -> Arc<Self> {
        let fs = Arc::new(Watched::default());
        let addr = |n: u16| SocketAddr::from(([127, 0, 0, 1], 7400 + n));
        let staging = || Staging::new(fs.clone());
        let others = [2, 3].map(|n| (addr(n), staging())).into();
        let rows = (1..=5)
            .map(|n| MemberRow {
                name: format!("n{n}"),
                addr: addr(n),
                state: if n == 4 {
                    Liveness::Dead
                } else {
                    Liveness::Alive
                },
                incarnation: u64::from(n),
                ring_id: format!("{n:016x}"),
                leader: n == 1,
                voter: n <= 3,
                suspected: false,
            })
            .collect();
        Arc::new(Self {
            net: Arc::new(FakeNet {
                me: addr(1),
                others,
            }),
            staging: staging(),
            fs,
            rows,
            suspicion: AtomicBool::new(true),
        })
    }
}

fn not_here<T: Send + 'static>() -> BoxFuture<'static, Result<T, Error>> {
    Box::pin(async { Err(Error::new(Kind::NotFound, "not in this test")) })
}

impl Member for FakeMember {
    fn files(&self) -> Arc<dyn FileSystem> {
        self.fs.clone()
    }
    fn net(&self) -> Arc<dyn Net> {
        self.net.clone()
    }
    fn staging(&self) -> Arc<Staging> {
        self.staging.clone()
    }
    fn status(&self) -> BoxFuture<'_, Result<Status, Error>> {
        let status = Status {
            member: "n1".into(),
            healthy: true,
            text: "healthy\n".into(),
            leader: Some("n1".into()),
            members_alive: 4,
        };
        Box::pin(async { Ok(status) })
    }
    fn members(&self) -> BoxFuture<'_, Result<Vec<MemberRow>, Error>> {
        Box::pin(async { Ok(self.rows.clone()) })
    }
    fn locate(&self, _path: String) -> BoxFuture<'_, Result<FileCopies, Error>> {
        not_here()
    }
    fn store(&self) -> BoxFuture<'_, Result<Vec<StoredRow>, Error>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn read_replica(
        &self,
        member: String,
        _path: String,
        offset: u64,
        len: u32,
    ) -> BoxFuture<'_, Result<Bytes, Error>> {
        let whole = Bytes::from(member.repeat(1 << 20));
        let from = whole.len().min(offset as usize);
        let to = whole.len().min(from + len as usize);
        Box::pin(async move { Ok(whole.slice(from..to)) })
    }
    fn suspicion(&self, set: Option<bool>) -> BoxFuture<'_, Result<Suspicion, Error>> {
        if let Some(on) = set {
            self.suspicion.store(on, Ordering::Relaxed);
        }
        let on = self.suspicion.load(Ordering::Relaxed);
        Box::pin(async move { Ok(Suspicion { on }) })
    }
    fn drain(&self, member: Option<String>, on: bool) -> BoxFuture<'_, Result<Drain, Error>> {
        let member = member.unwrap_or_else(|| "n1".into());
        Box::pin(async move {
            Ok(Drain {
                member,
                on,
                slots: 3,
                bytes: 5 << 20,
                voter: false,
                millis: None,
            })
        })
    }
    fn dismiss(&self, member: String, _now: bool) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            match member.as_str() {
                "n3" => Ok(()),
                other => Err(Error::new(
                    Kind::NotFound,
                    format!("no member is named {other}"),
                )),
            }
        })
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
    fn metrics(&self) -> String {
        "hydfs_up 1\n".into()
    }
}
