//! Extended attributes: what users keep there, where a file is, and access control lists, which the kernel obeys.

use crate::{
    call::Call,
    error::of_command,
    quotas::limit_of,
    volume::{Outcome, Volume},
};
use hydfs_mount::{Answer, Caller, Capability, FsError};
use hydfs_state::{Body, State};
use hydfs_types::{
    ACL_ACCESS, ACL_DEFAULT, Command, Ino, SegmentId, SetGid, SetXattrMode, XATTR_BYTES_MAX,
};

pub(crate) fn is_acl(name: &[u8]) -> bool {
    name == ACL_ACCESS || name == ACL_DEFAULT
}

impl Volume {
    pub(crate) async fn get_xattr(&self, ino: Ino, name: &[u8]) -> Outcome {
        if crate::synthetic::Synthetic::is(ino) {
            return Err(FsError::NoAttribute);
        }
        if let Some(rest) = name.strip_prefix(b"user.hydfs.") {
            return self.place_xattr(ino, rest).await;
        }
        if is_acl(name) {
            return self.get_acl(ino, name).await;
        }
        self.barrier().await?;
        if let Some(limit) = limit_of(name) {
            return self.limit(ino, limit);
        }
        self.xattr_in(&self.ctx.state(), ino, name)
    }

    pub(crate) fn xattr_in(&self, state: &State, ino: Ino, name: &[u8]) -> Outcome {
        if is_acl(name) {
            self.acl_is_shown(ino);
        }
        let inode = state.inode(ino).map_err(of_command)?;
        let value = inode.xattrs.get(name).cloned();
        value.map(Answer::Value).ok_or(FsError::NoAttribute)
    }

    pub(crate) async fn list_xattr(&self, ino: Ino) -> Outcome {
        if crate::synthetic::Synthetic::is(ino) {
            return Ok(Answer::Names(Vec::new()));
        }
        self.barrier().await?;
        Self::xattrs_in(&self.ctx.state(), ino)
    }

    pub(crate) fn xattrs_in(state: &State, ino: Ino) -> Outcome {
        let inode = state.inode(ino).map_err(of_command)?;
        Ok(Answer::Names(inode.xattrs.keys().cloned().collect()))
    }

    pub(crate) async fn set_xattr(
        &self,
        call: &Call,
        caller: Caller,
        ino: Ino,
        (name, value): (Vec<u8>, Vec<u8>),
        (create, replace): (bool, bool),
    ) -> Outcome {
        Self::settable(ino, &name)?;
        if is_acl(&name) {
            return self.set_acl(call, caller, ino, &name, value).await;
        }
        if value.len() > XATTR_BYTES_MAX {
            return Err(FsError::TooBig);
        }
        if let Some(limit) = limit_of(&name) {
            return self.set_quota(call, ino, limit, Some(&value)).await;
        }
        let mode = match (create, replace) {
            (true, _) => SetXattrMode::Create,
            (_, true) => SetXattrMode::Replace,
            _ => SetXattrMode::Any,
        };
        let command = Command::SetXattr {
            ino,
            name,
            value,
            mode,
        };
        let done = self.propose_for(call, command).await;
        done.map(|_| Answer::Done)
    }

    pub(crate) async fn remove_xattr(
        &self,
        call: &Call,
        caller: Caller,
        ino: Ino,
        name: Vec<u8>,
    ) -> Outcome {
        Self::settable(ino, &name)?;
        if is_acl(&name) {
            return self.set_acl(call, caller, ino, &name, Vec::new()).await;
        }
        if let Some(limit) = limit_of(&name) {
            return self.set_quota(call, ino, limit, None).await;
        }
        let done = self
            .propose_for(call, Command::RemoveXattr { ino, name })
            .await;
        done.map(|_| Answer::Done)
    }

    fn settable(ino: Ino, name: &[u8]) -> Outcome<()> {
        if crate::synthetic::Synthetic::is(ino) {
            return Err(FsError::NotSupported(
                "control files have no attributes of their own".into(),
            ));
        }
        if name.starts_with(b"user.hydfs.") {
            return Err(FsError::NotPermitted(
                "user.hydfs.* tells where a file is; it cannot be set".into(),
            ));
        }
        if name.starts_with(b"user.") || name.starts_with(b"trusted.") || is_acl(name) {
            return Ok(());
        }
        Err(FsError::NotSupported(
            "only user.* and trusted.* attributes and access control lists are kept".into(),
        ))
    }

    /// `user.hydfs.*`: replicas and segments as agreed, version, and what is pending at the slot leaders.
    async fn place_xattr(&self, ino: Ino, what: &[u8]) -> Outcome {
        self.barrier().await?;
        if what == b"pending" {
            let (records, bytes) = self.pending(ino).await?;
            return Ok(Answer::Value(
                format!("{records} records, {bytes} bytes").into_bytes(),
            ));
        }
        if what == b"quota" {
            return self.quota_text(ino);
        }
        let state = self.ctx.state();
        let inode = state.inode(ino).map_err(of_command)?;
        let Body::File(file) = &inode.body else {
            return Err(FsError::NoAttribute);
        };
        let name_of = |incarnation| {
            state.member_of(incarnation).map_or_else(
                || format!("{incarnation}"),
                |member| member.said.name.clone(),
            )
        };
        let replicas = |segment: &SegmentId| -> Vec<String> {
            let config = state
                .segment(*segment)
                .and_then(|known| state.config(known.slot));
            config
                .map(|config| {
                    config
                        .acting
                        .iter()
                        .map(|one| {
                            name_of(one.incarnation) + if one.synced { "" } else { "(learner)" }
                        })
                        .collect()
                })
                .unwrap_or_default()
        };
        let text = match what {
            b"version" => inode.data_version.to_string(),
            b"replicas" => {
                let mut names: Vec<String> = file.segments.values().flat_map(replicas).collect();
                names.sort();
                names.dedup();
                names.join(" ")
            }
            b"segments" => file
                .segments
                .iter()
                .filter_map(|(start, id)| {
                    let known = state.segment(*id)?;
                    Some(format!(
                        "{start}+{} {id} {} {} {}",
                        known.len,
                        known.slot,
                        known.version,
                        replicas(id).join(",")
                    ))
                })
                .collect::<Vec<_>>()
                .join("\n"),
            _ => return Err(FsError::NoAttribute),
        };
        Ok(Answer::Value(text.into_bytes()))
    }

    /// Records and bytes of a file that wait at the slot leaders.
    async fn pending(&self, ino: Ino) -> Outcome<(u64, u64)> {
        let by_leader = {
            let state = self.ctx.state();
            let (_, file) = state.file(ino).map_err(|_| FsError::NoAttribute)?;
            let mut by_leader = std::collections::BTreeMap::<_, Vec<SegmentId>>::new();
            for segment in file.segments.values() {
                if let Some(config) = state
                    .segment(*segment)
                    .and_then(|known| state.config(known.slot))
                {
                    by_leader.entry(config.leader).or_default().push(*segment);
                }
            }
            by_leader
        };
        let mut sum = (0, 0);
        for (leader, segments) in by_leader {
            for (_, records, bytes) in self
                .data
                .pending_at(leader, segments)
                .await
                .map_err(Self::data_error)?
            {
                sum = (sum.0 + records, sum.1 + bytes);
            }
        }
        Ok(sum)
    }

    /// As [`Volume::get_attr`]: the kernel asks for both to let somebody pass.
    async fn get_acl(&self, ino: Ino, name: &[u8]) -> Outcome {
        self.barrier_or_root(ino).await?;
        self.xattr_in(&self.ctx.state(), ino, name)
    }

    /// Sets an access control list, or removes it with an empty one. Whether the caller may, and which mode goes with it, is
    /// decided where it is agreed.
    async fn set_acl(
        &self,
        call: &Call,
        caller: Caller,
        ino: Ino,
        name: &[u8],
        list: Vec<u8>,
    ) -> Outcome {
        let may = |capability| caller.uid == 0 || caller.has(capability);
        let owner = (!may(Capability::FileOwner)).then_some(caller.uid);
        let set_gid = if may(Capability::SetGroupId) {
            SetGid::Anywhere
        } else {
            self.barrier().await?;
            let gid = self.ctx.state().inode(ino).map_err(of_command)?.attr.gid;
            match caller.is_in(gid) {
                Some(true) => SetGid::OfGroup(gid),
                _ => SetGid::Nowhere,
            }
        };
        let command = Command::SetAcl {
            ino,
            default: name == ACL_DEFAULT,
            list,
            owner,
            set_gid,
        };
        let done = self.propose_for(call, command).await;
        done.map(|_| Answer::Done)
    }
}
