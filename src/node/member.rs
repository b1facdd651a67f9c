//! A running member: its parts, and the order they start in.

use crate::{
    Config, Error,
    entry::AGAIN,
    faults::Faults,
    handover, join,
    kernel::Kernel,
    machine::{Followers, Machine},
    pace::Pace,
    place::{Place, session_of},
    planted,
    router::Router,
    seams::{Part, Seams, Streams, Wire, part_seed},
    standing,
    steward::Steward,
    streaming::Streaming,
};
use hydfs_agreement::{Group, Options as GroupOptions, Retention, Timing};
use hydfs_control::Staging;
use hydfs_data::{Context, Data, SharedState, Trial};
use hydfs_fs::{Lines, Mounted, Volume};
use hydfs_membership::{Expected, Identity as SwimIdentity, Membership};
use hydfs_memory::Memory;
use hydfs_store::{FaultyDisk, Folder, LogOptions};
use hydfs_transport::{Identity, Quic, Who};
use hydfs_types::{Admitted, BoxFuture, Clock, MemberId, SystemClock};
use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// One member and all its parts.
pub struct Member {
    pub config: Config,
    pub folder: Folder,
    pub net: Arc<dyn Wire>,
    pub group: Arc<Group>,
    pub ctx: Arc<Context>,
    pub data: Arc<Data>,
    pub volume: Arc<Volume>,
    pub followers: Arc<Followers>,
    pub staging: Arc<Staging>,
    pub pace: Pace,
    pub swim: OnceLock<Arc<Membership>>,
    pub streaming: OnceLock<Arc<Streaming>>,
    /// Rung when this member shall stop (it left, or was told to).
    pub stop: tokio::sync::Notify,
    /// It stops: the end of its incarnation is its own wish.
    pub(crate) stopping: AtomicBool,
    pub(crate) admitted: Mutex<Option<Admitted>>,
    /// Names of members that are alive and cannot be reached from here.
    apart: Mutex<Vec<String>>,
    pub(crate) seed: u64,
    pub(crate) clock: Arc<dyn Clock>,
    streams: Streams,
    /// Faults that were injected, where that is allowed.
    pub faults: Option<Arc<Faults>>,
    /// What outlives this worker.
    pub memory: Option<Arc<Memory>>,
    /// What has happened in the cluster, as far as this member knows.
    pub events: Arc<Lines>,
    /// The kernel of its mount, if it has one.
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) trial: Trial,
}

impl Member {
    /// Starts a member on the current runtime and returns once it is admitted and its state is current.
    pub fn start(config: Config) -> BoxFuture<'static, Result<Arc<Self>, Error>> {
        Box::pin(async move {
            let (member, place) = Self::begin(config).await?;
            member.enter(place).await?;
            member.volume.begin();
            Ok(member)
        })
    }

    /// Starts the parts of a member that is still to [`Member::enter`] its cluster. Its mount may be served: until
    /// [`Volume::begin`] it answers the control tree alone.
    pub fn begin(config: Config) -> BoxFuture<'static, Result<(Arc<Self>, Place), Error>> {
        Box::pin(async move {
            let faults = config.allow_faults.then(|| Arc::new(Faults::default()));
            let folder = Folder::open_through(&config.data, &config.name, |disk| match &faults {
                Some(faults) => {
                    let faults = faults.clone();
                    Arc::new(FaultyDisk::new(disk, Arc::new(move || faults.on_disk())))
                }
                None => disk,
            })
            .map_err(|source| Error::Folder {
                path: config.data.clone(),
                source,
            })?;
            if let Err(error) = crate::privacy::close(&config.data) {
                tracing::warn!(%error, "modes of the data folder cannot be set: others may read it, or jobs' executables may not start");
            }
            let identity = Identity::load(&config.certs, &config.name)?;
            let router = Arc::new(Router::default());
            let mut options = hydfs_transport::Options::new(config.listen, identity);
            options.advertise = Some(config.advertise);
            options.who = Who {
                cluster: folder.cluster(),
                member: folder.member(),
                incarnation: None,
            };
            let net = Quic::bind(options, router.clone())?;
            let log = LogOptions::new(folder.salt());
            let seams = Seams {
                folder,
                net: net.clone(),
                log,
                clock: Arc::new(SystemClock),
                seed: rand::random(),
                streams: Streams::OwnThreads,
                faults: faults.clone(),
                memory: config.memory.map(handover::open).transpose()?,
                trial: Trial::default(),
            };
            let (member, place) = Self::joined(config, seams, router).await?;
            if let Some(faults) = faults {
                tracing::warn!("faults may be injected through .cluster/faults: for tests only");
                member.hook_faults(&net, &faults);
            }
            Ok((member, place))
        })
    }

    /// Has the network ask for faults by the name of the other member.
    fn hook_faults(&self, net: &Quic, faults: &Arc<Faults>) {
        let name_of = |state: SharedState| {
            move |addr| {
                let state = state
                    .read()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                let mut members = state.cluster.members.values();
                members
                    .find(|one| one.said.addr == addr)
                    .map(|one| one.said.name.clone())
            }
        };
        let (name, ask) = (name_of(self.ctx.state.clone()), faults.clone());
        net.set_faults(Some(Arc::new(move |to| ask.on_way_to(&name(to)?))));
        let (name, ask) = (name_of(self.ctx.state.clone()), faults.clone());
        net.set_incoming_faults(Some(Arc::new(move |from| ask.on_way_from(&name(from)?))));
    }

    /// As [`Member::start`], from parts that are handed in; `router` is what the network hands frames to.
    pub fn assemble(
        config: Config,
        seams: Seams,
        router: Arc<Router>,
    ) -> BoxFuture<'static, Result<Arc<Self>, Error>> {
        Box::pin(async move {
            let (member, place) = Self::joined(config, seams, router).await?;
            member.enter(place).await?;
            member.volume.begin();
            Ok(member)
        })
    }

    async fn joined(
        config: Config,
        seams: Seams,
        router: Arc<Router>,
    ) -> Result<(Arc<Self>, Place), Error> {
        let place = Place::find(&config, &seams).await?;
        let member = Self::parts(config, seams, &place).await?;
        // Before anybody can ask it for a vote.
        standing::check(&member).await?;
        router.set(&member);
        member.volume.set_control(crate::tree::Tree::new(&member));
        Ok((member, place))
    }

    /// Enters the cluster: returns once it is admitted, its state is current, and everything that follows it runs.
    pub fn enter(self: &Arc<Self>, place: Place) -> BoxFuture<'static, Result<(), Error>> {
        let member = self.clone();
        Box::pin(async move {
            member.enter_group(place).await?;
            member.run().await
        })
    }

    async fn parts(config: Config, seams: Seams, place: &Place) -> Result<Arc<Self>, Error> {
        let state = SharedState::default();
        let followers = Followers::new();
        let Seams {
            folder,
            net,
            log,
            clock,
            seed,
            streams,
            faults,
            memory,
            trial,
        } = seams;
        state
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .planted = trial.planted;
        let resolve = {
            let state = state.clone();
            Arc::new(move |id| state.read().ok()?.member(id).map(|member| member.said.addr))
        };
        let life = session_of(place.member, folder.start_count(), trial);
        let group = Group::start(
            GroupOptions {
                me: place.member,
                disk: folder.disk().clone(),
                dir: Folder::RAFT.into(),
                log,
                net: net.clone(),
                resolve,
                clock: clock.clone(),
                timing: Timing::default(),
                retention: Retention::default(),
                session: life,
                kept: memory.as_ref().map(handover::session),
                seed: part_seed(seed, Part::Group),
                planted: trial.planted,
            },
            Box::new(Machine {
                state: state.clone(),
                followers: followers.clone(),
            }),
        )
        .await?;
        let takes_over = memory.as_ref().is_some_and(|memory| memory.takes_over());
        let kernel = Kernel::new(takes_over);
        if config.mount.is_some() {
            group.set_onlooker(kernel.clone());
        }
        let agreement = planted::agreement(group.clone(), trial);
        let ctx = Arc::new(Context::new(net.clone(), agreement, state, trial));
        let past = handover::past(&folder, memory.as_ref());
        let data = Data::open(ctx.clone(), folder.disk().clone(), log, past)?;
        handover::opened(&data, &folder, memory.as_ref()).map_err(|source| Error::Folder {
            path: config.data.clone(),
            source,
        })?;
        let volume = Volume::new(data.clone(), clock.clone(), folder.disk().clone());
        if let Some(memory) = &memory {
            volume.keep(memory.clone());
        }
        let staging = Staging::new(Arc::new(Mounted(volume.clone())));
        Ok(Arc::new(Self {
            config,
            folder,
            net,
            group,
            ctx,
            data,
            volume,
            followers,
            pace: Pace::default(),
            staging,
            swim: OnceLock::new(),
            streaming: OnceLock::new(),
            stop: tokio::sync::Notify::new(),
            stopping: AtomicBool::new(false),
            admitted: Mutex::new(None),
            apart: Mutex::default(),
            seed,
            clock,
            streams,
            faults,
            memory,
            events: Arc::default(),
            kernel,
            trial,
        }))
    }

    /// This member's id.
    pub fn id(&self) -> MemberId {
        self.admitted
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .map(|admitted| admitted.member)
            .unwrap_or_default()
    }

    /// Starts everything that follows the state.
    async fn run(self: &Arc<Self>) -> Result<(), Error> {
        drop(self.followers.data.set(self.data.clone()));
        drop(self.followers.volume.set(self.volume.clone()));
        let config = &self.config;
        self.data
            .start(config.scrub_bytes_per_s, config.repair_bytes_per_s);
        self.start_swim()?;
        tokio::spawn(self.volume.clone().write_behind());
        tokio::spawn(self.volume.clone().end_writers());
        tokio::spawn(self.volume.clone().release_orphans());
        if config.mount.is_some() {
            tokio::spawn(self.volume.clone().forget_after_sleep());
        }
        tokio::spawn(Steward::new(self.clone()).run());
        tokio::spawn(self.clone().follow_members());
        if self.folder.rebooted() || self.data.has_lost() {
            tokio::spawn(self.clone().note_made_good());
        }
        self.volume.unlock_left();
        self.own_up().await;
        if let Some(streaming) = Streaming::start(self, &self.streams)? {
            drop(self.streaming.set(streaming));
        }
        Ok(())
    }

    fn start_swim(&self) -> Result<(), Error> {
        let me = self.ctx.me();
        let generation = me.0 << 16 | (self.folder.start_count() & 0xff) << 8;
        let identity = SwimIdentity::new(&self.config.name, self.net.local_addr(), generation)?;
        let detection = self.config.detection;
        let options = hydfs_membership::Options {
            probe_period: detection.probe_period,
            probe_rtt: detection.probe_rtt,
            suspect_to_down: detection.suspicion,
            ..hydfs_membership::Options::default()
        };
        let swim = Membership::start(
            self.net.clone(),
            identity,
            options,
            part_seed(self.seed, Part::Swim),
        );
        drop(self.swim.set(swim));
        self.seed_swim();
        Ok(())
    }

    /// Tells SWIM who should be there, and whether it suspects.
    fn seed_swim(&self) {
        let Some(swim) = self.swim.get() else { return };
        let state = self.ctx.state();
        let others = state
            .cluster
            .members
            .values()
            .filter(|member| !member.left && member.said.name != self.config.name);
        swim.seed_members(
            others
                .map(|member| Expected {
                    name: member.said.name.as_str().into(),
                    addr: member.said.addr,
                })
                .collect(),
        );
        swim.set_suspicion(
            state
                .cluster
                .settings
                .get("suspicion")
                .is_none_or(|value| value != "off"),
        );
    }

    /// Follows the agreed members: feeds SWIM, and comes back when the cluster has ended this member (fault M8).
    async fn follow_members(self: Arc<Self>) {
        let mut changes = self.followers.members.subscribe();
        loop {
            self.seed_swim();
            let me = self.ctx.me();
            let (ended, left) = {
                let state = self.ctx.state();
                let left = state.member(self.id()).is_some_and(|member| member.left);
                (
                    state.cluster.id.is_some() && !state.cluster.alive.contains_key(&me),
                    left,
                )
            };
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            if left {
                self.stop.notify_one();
            } else if ended {
                match self.come_back().await {
                    Ok(()) => {}
                    // A full disk, for one: nobody is served meanwhile, and it may pass.
                    Err(error @ Error::Folder { .. }) => {
                        tracing::warn!(%error, "cannot rejoin yet; trying again");
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                    Err(error) => {
                        tracing::error!(%error, "cannot rejoin; stopping");
                        self.stop.notify_one();
                        return;
                    }
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Names of members that are alive and cannot be reached from here, as far as that was looked for.
    pub fn apart(&self) -> Vec<String> {
        self.apart
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_apart(&self, names: Vec<String>) {
        *self
            .apart
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = names;
    }

    /// Whether a worker before this one served the same mount.
    pub(crate) fn takes_over(&self) -> bool {
        let memory = self.memory.as_ref();
        memory.is_some_and(|memory| memory.takes_over())
    }

    /// What another member would testify about one.
    pub async fn opinion_of(
        &self,
        other: &hydfs_types::MemberInfo,
        about: &str,
    ) -> Option<hydfs_membership::Opinion> {
        let request = join::NodeRequest::Opinion {
            name: about.to_owned(),
        };
        match join::ask(
            &*self.net,
            other.said.addr,
            &request,
            Duration::from_secs(1),
        )
        .await
        {
            Ok(join::NodeResponse::Opinion(opinion)) => Some(opinion),
            _ => None,
        }
    }
}
