//! RainStorm's view of the cluster: who is there, what jobs there are, and how to reach those who run them.

use crate::member::Member;
use hydfs_types::{
    Agreement, AgreementError, BoxFuture, Command, Frame, JobCommand, JobId, JobInfo, JobPhase,
    LogIndex, MemberId, Reply,
};
use rainstorm::{CallError, Cluster};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// [`Cluster`] over the agreed state.
pub(crate) struct Members {
    pub(crate) member: Arc<Member>,
    pub(crate) leader: watch::Receiver<Option<MemberId>>,
}

impl Cluster for Members {
    fn me(&self) -> MemberId {
        self.member.id()
    }

    fn members(&self) -> Vec<(MemberId, String)> {
        let state = self.member.ctx.state();
        state
            .cluster
            .members
            .values()
            .filter(|one| one.alive)
            .map(|one| (one.id, one.said.name.clone()))
            .collect()
    }

    fn call(
        &self,
        to: MemberId,
        frame: Frame,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Frame, CallError>> {
        let addr = self.member.ctx.state().member(to).map(|one| one.said.addr);
        let net = self.member.net.clone();
        Box::pin(async move {
            let addr = addr.ok_or_else(|| CallError {
                to,
                why: "no such member".into(),
            })?;
            let answer = net
                .call(addr, frame, deadline)
                .await
                .map_err(|error| CallError {
                    to,
                    why: error.to_string(),
                })?;
            if answer.head.is_empty() {
                return Err(CallError {
                    to,
                    why: "it does not run tasks yet".into(),
                });
            }
            Ok(answer)
        })
    }

    fn leader(&self) -> watch::Receiver<Option<MemberId>> {
        self.leader.clone()
    }

    fn jobs(&self) -> Vec<JobInfo> {
        self.member.ctx.state().jobs.values().cloned().collect()
    }

    fn job(&self, id: JobId) -> Option<JobInfo> {
        self.member.ctx.state().jobs.get(&id).cloned()
    }

    fn jobs_running(&self) -> Vec<JobInfo> {
        let state = self.member.ctx.state();
        state
            .jobs
            .values()
            .filter(|job| job.phase == JobPhase::Running)
            .cloned()
            .collect()
    }

    fn changes(&self) -> watch::Receiver<LogIndex> {
        self.member.followers.jobs.subscribe()
    }

    fn propose(&self, command: JobCommand) -> BoxFuture<'_, Result<Reply, AgreementError>> {
        self.member.group.propose(Command::Job(command))
    }
}
