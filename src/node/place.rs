//! Who a member is, by its folder and by what it says of itself.

use crate::{
    Config, Error,
    join::enter,
    seams::{Part, Seams, part_seed},
};
use hydfs_data::Trial;
use hydfs_store::Folder;
use hydfs_types::{Admission, Admitted, BootId, ClusterId, LogIndex, MemberId, Planted, SessionId};
use std::time::Duration;

/// How long a joiner looks for a door before it gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Whoever is to make a cluster listens for so long whether it is in one: a leader calls each member more often.
const KNOCKS: Duration = Duration::from_secs(2);

/// Who the member is to the agreement group before its parts start.
pub struct Place {
    pub(crate) member: MemberId,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) admitted: Option<Admitted>,
}

impl Place {
    /// Finds out who this member is: from its folder, by making a cluster, or by asking to be let in.
    pub(crate) async fn find(config: &Config, seams: &Seams) -> Result<Self, Error> {
        let (folder, net) = (&seams.folder, &*seams.net);
        if let (Some(cluster), Some(member)) = (folder.cluster(), folder.member()) {
            return Ok(Self {
                member,
                cluster: Some(cluster),
                admitted: None,
            });
        }
        if config.bootstrap {
            // A cluster that has this machine as a voter asks it for votes that an empty folder must not give.
            if let Ok(cluster) = tokio::time::timeout(KNOCKS, net.knocked()).await {
                return Err(Error::Sought { cluster });
            }
            return Ok(Self {
                member: MemberId(1),
                cluster: None,
                admitted: None,
            });
        }
        if config.join.is_empty() {
            return Err(Error::NoCluster);
        }
        let (cluster, admitted) = enter(
            net,
            &config.join,
            &said(config, folder, seams.seed, LogIndex(0), seams.trial),
            PATIENCE,
        )
        .await?;
        bind(config, folder, cluster, admitted.member)?;
        net.known_as(Some(cluster), admitted.member, admitted.incarnation);
        Ok(Self {
            member: admitted.member,
            cluster: Some(cluster),
            admitted: Some(admitted),
        })
    }
}

/// One session per start, and per return after an expiry: start counts are never used twice.
pub(crate) fn session_of(member: MemberId, start_count: u64, trial: Trial) -> SessionId {
    if trial.planted == Some(Planted::IdsReused) {
        return SessionId(member.0 << 32);
    }
    SessionId(member.0 << 32 | start_count)
}

pub(crate) fn said(
    config: &Config,
    folder: &Folder,
    seed: u64,
    last: LogIndex,
    trial: Trial,
) -> Admission {
    let boot = match trial.planted {
        Some(Planted::KeptAfterPowerLoss) => BootId([0; 16]),
        _ => folder.boot(),
    };
    Admission {
        name: config.name.clone(),
        addr: config.advertise,
        zone: config.zone.clone(),
        weight: config.weight,
        storage: folder.storage(),
        boot,
        start_count: folder.start_count(),
        drawn: part_seed(seed ^ folder.start_count(), Part::Start),
        last,
    }
}

pub(crate) fn bind(
    config: &Config,
    folder: &Folder,
    cluster: ClusterId,
    member: MemberId,
) -> Result<(), Error> {
    let done = folder
        .set_cluster(cluster)
        .and_then(|()| folder.set_member(member));
    done.map_err(|source| Error::Folder {
        path: config.data.clone(),
        source,
    })
}
