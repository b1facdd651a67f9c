//! What others know of a data folder, asked before its member takes part: one that was copied, or rolled back to an earlier
//! state, would vote and acknowledge with a log that lacks what it has acknowledged before.
//!
//! Asked of everybody who is in the local state. Where nobody answers (all machines had lost power, say), the member goes
//! on: its admission is judged again by the group (R12).

use crate::{Error, join, member::Member};
use futures_util::{StreamExt, stream::FuturesUnordered};
use hydfs_types::{LogIndex, StorageId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long others are waited for: less than the shortest time after which this member stands for election.
const ASK: Duration = Duration::from_secs(1);

/// What a member knows of a data folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Starts that the cluster has seen of it.
    pub starts: u64,
    /// It has had the agreement log on disk up to here, and that is agreed.
    pub kept: LogIndex,
    /// Whoever answers leads: nobody knows more.
    pub leads: bool,
}

impl Standing {
    /// As `member` knows it.
    pub fn of(member: &Member, storage: StorageId) -> Self {
        let leads = member.group.leads_within(ASK);
        let known = {
            let state = member.ctx.state();
            let mut members = state.cluster.members.values();
            members
                .find(|one| one.said.storage == storage)
                .map(|one| (one.id, one.said.start_count, one.kept))
        };
        let Some((id, starts, kept)) = known else {
            return Self {
                leads,
                ..Self::default()
            };
        };
        let metrics = member.group.metrics();
        // Only what is agreed: the rest of a log may have been overwritten by another leader since.
        let matched = metrics.matched.get(&id).copied().flatten();
        let matched = matched.min(metrics.committed).unwrap_or_default();
        Self {
            starts,
            kept: kept.max(matched),
            leads,
        }
    }

    /// Why a folder that counts so many starts and has the log up to `last` is not the one that is known, if so.
    fn objection(&self, starts: u64, last: LogIndex) -> Option<String> {
        if self.starts >= starts {
            return Some(format!(
                "it counts {starts} starts where the cluster has seen {}",
                self.starts
            ));
        }
        (self.kept > last).then(|| {
            format!(
                "its agreement log ends at {last}, and it has had it up to {}",
                self.kept
            )
        })
    }
}

/// Refuses to go on with a folder that others have seen further on than it is.
pub async fn check(member: &Member) -> Result<(), Error> {
    let storage = member.folder.storage();
    let others: Vec<_> = {
        let state = member.ctx.state();
        let members = state.cluster.members.values();
        members
            .filter(|one| !one.left && one.said.storage != storage)
            .map(|one| one.said.addr)
            .collect()
    };
    let (starts, last) = (member.folder.start_count(), member.group.last_entry());
    let request = join::NodeRequest::Standing { storage };
    let mut answers: FuturesUnordered<_> = others
        .into_iter()
        .map(|addr| join::ask(&*member.net, addr, &request, ASK))
        .collect();
    while let Some(answer) = answers.next().await {
        let Ok(join::NodeResponse::Standing(standing)) = answer else {
            continue;
        };
        if let Some(why) = standing.objection(starts, last) {
            return Err(Error::RolledBack { why });
        }
        if standing.leads {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_has_less_than_it_had_is_objected_to() {
        let known = Standing {
            starts: 4,
            kept: LogIndex(100),
            leads: true,
        };
        assert_eq!(known.objection(5, LogIndex(100)), None);
        assert_eq!(known.objection(7, LogIndex(300)), None);
        let copied = known.objection(4, LogIndex(300)).expect("refused");
        assert!(copied.contains("4 starts"), "{copied}");
        let earlier = known.objection(5, LogIndex(99)).expect("refused");
        assert!(earlier.contains("up to #100"), "{earlier}");
        assert_eq!(Standing::default().objection(1, LogIndex(0)), None);
    }
}
