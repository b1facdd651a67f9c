//! How a member enters its cluster (R12): who it is, how it is admitted, and how it comes back when it was taken for dead.

use crate::{
    Error,
    join::enter,
    member::Member,
    place::{Place, bind, said, session_of},
    seams::{Part, part_seed},
};
use hydfs_types::{
    Admitted, Agreement, AgreementError, ClusterId, Command, CommandError, FileKind, JOBS_DIR,
    ROOT_INO, Reply, SetAttr,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{os::unix::fs::MetadataExt, sync::Arc, time::Duration};

pub(crate) const AGAIN: Duration = Duration::from_millis(250);

impl Member {
    /// Becomes a member of the agreement group with a current state.
    pub(crate) async fn enter_group(self: &Arc<Self>, place: Place) -> Result<(), Error> {
        if place.cluster.is_none() {
            let cluster = self.bootstrap().await?;
            bind(&self.config, &self.folder, cluster, place.member)?;
        }
        let admitted = match place.admitted {
            Some(admitted) => admitted,
            None => self.ask_admission(self.takes_over()).await?,
        };
        self.become_incarnation(admitted);
        // Nothing is served before the state here is as new as this admission (R12).
        loop {
            match self.group.barrier().await {
                Ok(_) if self.ctx.state().cluster.alive.contains_key(&self.ctx.me()) => {
                    return Ok(());
                }
                // Expired before it began: whoever expired it could not know that it is coming.
                Ok(_) => self.come_back().await?,
                Err(AgreementError::Stopped(why)) => {
                    return Err(AgreementError::Stopped(why).into());
                }
                Err(error) => {
                    tracing::info!(%error, "waiting for the agreement group");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Makes a new cluster with this member as its first.
    async fn bootstrap(&self) -> Result<ClusterId, Error> {
        if !self.group.has_log().await? {
            self.group.bootstrap().await?;
        }
        let command = Command::Bootstrap {
            cluster: ClusterId(StdRng::seed_from_u64(part_seed(self.seed, Part::Cluster)).random()),
            copies: self.config.copies,
        };
        match self.group.propose(command).await {
            Ok(_) | Err(AgreementError::Refused(CommandError::Bootstrapped)) => {}
            Err(error) => return Err(error.into()),
        }
        // Whoever makes a cluster owns its root: in a mount of an ordinary user nobody else could even make a file.
        let (uid, gid) = std::fs::metadata("/proc/self").map_or((0, 0), |me| (me.uid(), me.gid()));
        let jobs = Command::Create {
            parent: ROOT_INO,
            name: JOBS_DIR.to_vec(),
            kind: FileKind::Directory,
            mode: 0o755,
            uid,
            gid,
            rdev: 0,
            target: Vec::new(),
            grant: None,
            umask: 0,
        };
        match self.group.propose(jobs).await {
            Ok(_) | Err(AgreementError::Refused(CommandError::Exists)) => {}
            Err(error) => return Err(error.into()),
        }
        if uid != 0 {
            let root = Command::SetAttr {
                ino: ROOT_INO,
                set: SetAttr {
                    uid: Some(uid),
                    gid: Some(gid),
                    ..SetAttr::default()
                },
            };
            self.group.propose(root).await?;
        }
        let cluster = self.ctx.state().cluster.id;
        cluster.ok_or(Error::NoCluster)
    }

    /// Asks the group, through itself or any door, until it is admitted.
    async fn ask_admission(&self, takes_over: bool) -> Result<Admitted, Error> {
        let last = self.group.last_entry();
        let said = said(&self.config, &self.folder, self.seed, last, self.trial);
        let command = match takes_over {
            true => Command::TakeOver(said.clone()),
            false => Command::Admit(said.clone()),
        };
        loop {
            match self.group.propose(command.clone()).await {
                Ok(Reply::Admitted(admitted)) => return Ok(admitted),
                Ok(other) => tracing::error!(?other, "unexpected answer to an admission"),
                // Where the group has stopped no later attempt would be answered: the supervisor starts the worker anew.
                Err(error @ (AgreementError::Refused(_) | AgreementError::Stopped(_))) => {
                    return Err(error.into());
                }
                Err(error) => {
                    tracing::info!(%error, "not admitted yet: waiting for a majority of the voters")
                }
            }
            // A door would let it in as somebody new.
            let doors = self.doors();
            if !takes_over && !doors.is_empty() {
                match enter(&*self.net, &doors, &said, Duration::ZERO).await {
                    Ok((_, admitted)) => return Ok(admitted),
                    // A copied folder finds out here: the group's log goes to the member that it is a copy of.
                    Err(error @ Error::Refused { .. }) => return Err(error),
                    Err(error) => tracing::debug!(%error, "no door opened"),
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Who may let this member in: whom it was told to ask, and everybody whom it knows. Whoever made the cluster was told
    /// nobody.
    fn doors(&self) -> Vec<String> {
        let mut doors = self.config.join.clone();
        let state = self.ctx.state();
        let others = state.cluster.members.values();
        let others = others.filter(|one| !one.left && one.said.storage != self.folder.storage());
        for addr in others.map(|one| one.said.addr.to_string()) {
            if !doors.contains(&addr) {
                doors.push(addr);
            }
        }
        doors
    }

    fn become_incarnation(&self, admitted: Admitted) {
        tracing::info!(member = %admitted.member, incarnation = %admitted.incarnation, resumed = admitted.resumed, "admitted");
        if let Some(memory) = &self.memory {
            if memory.incarnation() != admitted.incarnation {
                // Whoever was the session's before has ended, and the answers with it.
                let start_count = self.folder.start_count();
                self.group
                    .renew_session(session_of(admitted.member, start_count, self.trial));
            }
            memory.save_incarnation(admitted.incarnation);
        }
        self.group
            .set_incarnation(admitted.incarnation, self.folder.start_count());
        self.ctx.set_me(admitted.incarnation);
        self.net
            .known_as(self.folder.cluster(), admitted.member, admitted.incarnation);
        *self
            .admitted
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(admitted);
    }

    /// The cluster has ended this incarnation while the process lived: asks for a new one.
    pub(crate) async fn come_back(&self) -> Result<(), Error> {
        tracing::warn!(incarnation = %self.ctx.me(), "the cluster took this member for dead: rejoining");
        let start_count = self.folder.count_start().map_err(|source| Error::Folder {
            path: self.config.data.clone(),
            source,
        })?;
        self.group
            .renew_session(session_of(self.id(), start_count, self.trial));
        let admitted = self.ask_admission(false).await?;
        self.become_incarnation(admitted);
        Ok(())
    }
}
