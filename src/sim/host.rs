//! One simulated machine: its disk outlives its members, its clock is its own, and it may crash in several ways.

use crate::{End, SimNet, kernel::Kernel};
use hydfs_data::Trial;
use hydfs_node::{Config, Detection, Error, Member, Router, Seams, Streams, Wire};
use hydfs_store::{Crash, Folder, LogOptions, MemDisk, Position, SyncMode};
use hydfs_transport::Counters;
use hydfs_types::{
    BootId, BoxFuture, Clock, ClusterId, Frame, Incarnation, MemberId, Net, NetError, StorageId,
    Time,
};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::{task::AbortHandle, time::Instant};

/// Bytes of a log file: small, so that checkpoints and purges happen within a run.
const LOG_FILE_BYTES: u64 = 1 << 20;
/// What one sync of a healthy simulated disk takes.
pub const SYNC: Duration = Duration::from_millis(2);
/// Wall time at the start of every run.
const EPOCH_SECONDS: i64 = 1_800_000_000;

/// A machine's wall clock: virtual time and an error of its own, which may jump.
pub struct HostClock {
    began: Instant,
    off_millis: AtomicI64,
}

impl Clock for HostClock {
    fn now(&self) -> Time {
        let millis =
            self.began.elapsed().as_millis() as i64 + self.off_millis.load(Ordering::Relaxed);
        Time {
            sec: EPOCH_SECONDS + millis.div_euclid(1000),
            nsec: millis.rem_euclid(1000) as u32 * 1_000_000,
        }
    }
}

/// A member's end of the simulated network.
struct SimWire {
    end: End,
    net: Arc<SimNet>,
}

impl Net for SimWire {
    fn call(
        &self,
        to: SocketAddr,
        frame: Frame,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, NetError>> {
        self.end.call(to, frame, deadline)
    }

    fn send_datagram(&self, to: SocketAddr, payload: bytes::Bytes) {
        self.end.send_datagram(to, payload);
    }

    fn local_addr(&self) -> SocketAddr {
        self.end.local_addr()
    }
}

impl Wire for SimWire {
    fn known_as(&self, _: Option<ClusterId>, member: MemberId, _: Incarnation) {
        if self.end.is_live() {
            self.net.set_member_id(self.end.local_addr(), Some(member));
        }
    }

    fn knocked(&self) -> BoxFuture<'_, ClusterId> {
        Box::pin(std::future::pending())
    }

    fn counters(&self) -> Option<Arc<Counters>> {
        None
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if self.end.is_live() {
                self.net.crash(self.end.local_addr());
            }
        })
    }
}

/// One life of a member on a host.
#[derive(Clone)]
pub struct Life {
    /// Counts from 1 over all lives of this host.
    pub number: u32,
    /// Set once the member is admitted and current; an error where it gave up.
    pub member: Arc<OnceLock<Result<Arc<Member>, Error>>>,
    /// Outlives this life if its worker alone is killed.
    pub kernel: Arc<Kernel>,
    starting: AbortHandle,
}

impl Life {
    /// The member, once it serves.
    pub fn member(&self) -> Option<Arc<Member>> {
        self.member.get()?.as_ref().ok().cloned()
    }
}

/// A machine.
pub struct Host {
    pub name: String,
    pub addr: SocketAddr,
    pub disk: MemDisk,
    pub clock: Arc<HostClock>,
    pub life: Option<Life>,
    net: Arc<SimNet>,
    join: Vec<String>,
    copies: u8,
    trial: Trial,
    /// What a sync of its disk takes, from its next start on.
    pub sync: Duration,
    /// RainStorm's settings, where it runs, from the next start on.
    pub streams: Option<rainstorm::Options>,
    seed: u64,
    /// It has left for ever.
    pub gone: bool,
    boot: u8,
    lives: u32,
    /// The mount of a worker that was killed and has no successor yet.
    left: Option<Arc<Kernel>>,
}

impl Host {
    /// A machine with an empty disk; the first one makes the cluster, whose files have `copies` copies.
    pub fn new(net: Arc<SimNet>, index: u8, copies: u8, seed: u64, trial: Trial) -> Self {
        let addr = address(index);
        let join = if index == 0 {
            Vec::new()
        } else {
            (0..index).map(|other| address(other).to_string()).collect()
        };
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(index) << 40;
        Self {
            name: format!("n{}", index + 1),
            addr,
            disk: MemDisk::new(seed),
            clock: Arc::new(HostClock {
                began: Instant::now(),
                off_millis: AtomicI64::new(0),
            }),
            life: None,
            net,
            join,
            copies,
            trial,
            sync: SYNC,
            streams: None,
            seed,
            gone: false,
            boot: 1,
            lives: 0,
            left: None,
        }
    }

    /// Sets how wrong the machine's wall clock is.
    pub fn set_clock(&self, off_millis: i64) {
        self.clock.off_millis.store(off_millis, Ordering::Relaxed);
    }

    /// The member, once it serves.
    pub fn member(&self) -> Option<Arc<Member>> {
        self.life.as_ref()?.member()
    }

    /// Begins a life; the member is there once it was admitted.
    pub fn start(&mut self) {
        self.lives += 1;
        let router = Arc::new(Router::default());
        let net: Arc<dyn Wire> = Arc::new(SimWire {
            end: self.net.member(self.addr, &self.name, router.clone()),
            net: self.net.clone(),
        });
        let (disk, name, storage, boot) = (
            self.disk.attach(),
            self.name.clone(),
            StorageId([self.addr.port() as u8; 16]),
            BootId([self.boot; 16]),
        );
        let (config, clock, seed) = (
            self.config(),
            self.clock.clone(),
            self.seed ^ u64::from(self.lives),
        );
        let (trial, delay) = (self.trial, self.sync);
        let streams = self.streams(seed);
        // A supervisor starts its worker again where that gave up.
        let mounted = self.left.take().or_else(|| self.kernel());
        let kernel = mounted.unwrap_or_else(|| Kernel::mount().expect("a memory file is made"));
        let serves = kernel.clone();
        let member = Arc::new(OnceLock::new());
        let started = member.clone();
        let starting = tokio::spawn(async move {
            let begin = async {
                let folder =
                    Folder::on(disk, &name, storage, boot).map_err(|source| Error::Folder {
                        path: PathBuf::from(&name),
                        source,
                    })?;
                let log = LogOptions {
                    sync: SyncMode::Inline { delay },
                    ..log_options(folder.salt())
                };
                Member::assemble(
                    config,
                    Seams {
                        folder,
                        net,
                        log,
                        clock,
                        seed,
                        streams,
                        faults: None,
                        memory: Some(serves.memory()),
                        trial,
                    },
                    router,
                )
                .await
            };
            let begun = begin.await;
            if let Ok(member) = &begun {
                serves.serve(member);
            }
            started.set(begun).ok();
        });
        self.life = Some(Life {
            number: self.lives,
            member,
            kernel,
            starting: starting.abort_handle(),
        });
    }

    fn streams(&self, seed: u64) -> Streams {
        let Some(options) = self.streams.clone() else {
            return Streams::Nowhere;
        };
        Streams::Here(Box::new(rainstorm::Options {
            life: seed.rotate_left(17),
            ..options
        }))
    }

    /// Whether a life goes on that has not given up.
    pub fn is_running(&self) -> bool {
        let gave_up = |life: &Life| life.member.get().is_some_and(Result::is_err);
        self.life.as_ref().is_some_and(|life| !gave_up(life))
    }

    /// Whether a mount waits for its next worker.
    pub fn is_mounted(&self) -> bool {
        self.left.is_some()
    }

    /// Whether the machine has ever run.
    pub fn is_used(&self) -> bool {
        self.lives > 0
    }

    /// Ends the life and the mount at once. What the process still had in hand goes on nowhere: neither disk nor network
    /// hear it.
    pub fn crash(&mut self, how: Crash) {
        if let Some(kernel) = self.left.take().or_else(|| self.kernel()) {
            kernel.unmount();
        }
        self.end(how);
    }

    /// The worker is killed, its supervisor and its mount are not.
    pub fn kill_worker(&mut self) {
        self.left = self.kernel();
        if let Some(kernel) = &self.left {
            kernel.lose_worker();
        }
        self.end(Crash::Kill);
    }

    /// What the memory file that the next worker will get says of how far the journal went.
    pub fn journal_end(&self) -> Option<Position> {
        self.left.as_ref()?.journal_end().map(Position)
    }

    fn kernel(&self) -> Option<Arc<Kernel>> {
        self.life.as_ref().map(|life| life.kernel.clone())
    }

    fn end(&mut self, how: Crash) {
        if how != Crash::Kill {
            self.boot += 1;
        }
        self.net.crash(self.addr);
        self.disk.crash(how);
        let Some(life) = self.life.take() else { return };
        life.starting.abort();
        if let Some(member) = life.member() {
            if let Some(streaming) = member.streaming.get() {
                streaming.shut_down();
            }
            // Its tasks would look around for ever; this ends most of them.
            tokio::spawn(async move { member.group.shutdown().await });
        }
    }

    fn config(&self) -> Config {
        Config {
            name: self.name.clone(),
            data: PathBuf::from(&self.name),
            listen: self.addr,
            advertise: self.addr,
            join: self.join.clone(),
            bootstrap: self.join.is_empty(),
            certs: PathBuf::new(),
            mount: None,
            memory: None,
            copies: self.copies,
            zone: String::new(),
            weight: 100,
            op_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(30),
            voter_replace_after: Duration::from_secs(10),
            allow_root_jobs: true,
            scrub_bytes_per_s: 16 << 20,
            repair_bytes_per_s: 0,
            allow_faults: false,
            detection: Detection::default(),
        }
    }
}

/// How logs are kept on simulated disks.
pub fn log_options(salt: u64) -> LogOptions {
    LogOptions {
        file_bytes: LOG_FILE_BYTES,
        sync: SyncMode::Inline { delay: SYNC },
        ..LogOptions::new(salt)
    }
}

/// Where a host serves.
pub fn address(index: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 7401 + u16::from(index)))
}
