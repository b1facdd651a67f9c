//! Admission (R12): how a member enters, re-enters, and answers those who want in. Any member is a door.

use crate::{Error, apart, member::Member, standing::Standing};
use bytes::Bytes;
use hydfs_agreement::{member_payload, member_request};
use hydfs_membership::Opinion;
use hydfs_types::{
    Admission, Admitted, Agreement, ClusterId, Command, MemberId, Net, NetError, Reply, StorageId,
    decode, encode,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

const ASK: Duration = Duration::from_secs(12);
const AGAIN: Duration = Duration::from_millis(300);

/// What members ask each other besides the services' own messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeRequest {
    /// "Let me in": proposed on the asker's behalf, whoever is asked.
    Join(Admission),
    /// What would you testify about this member?
    Opinion { name: String },
    /// What do you know of the member with this data folder?
    Standing { storage: StorageId },
    /// Whom of these do you reach?
    Reach(Vec<MemberId>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeResponse {
    Joined {
        cluster: ClusterId,
        admitted: Admitted,
    },
    Opinion(Opinion),
    /// Words for a person. `again`: it may work a little later.
    Refused {
        why: String,
        again: bool,
    },
    Standing(Standing),
    Reached(BTreeSet<MemberId>),
}

/// Answers a request of another member.
pub async fn answer(member: &Member, payload: &[u8]) -> Bytes {
    let response = match decode::<NodeRequest>(payload) {
        Ok(NodeRequest::Join(said)) => admit(member, said).await,
        Ok(NodeRequest::Opinion { name }) => match member.swim.get() {
            Some(swim) => NodeResponse::Opinion(swim.opinion(&name)),
            None => NodeResponse::Refused {
                why: "this member is starting".into(),
                again: true,
            },
        },
        Ok(NodeRequest::Standing { storage }) => {
            NodeResponse::Standing(Standing::of(member, storage))
        }
        Ok(NodeRequest::Reach(asked)) => apart::answer(member, &asked).await,
        Err(error) => NodeResponse::Refused {
            why: error.to_string(),
            again: false,
        },
    };
    encode(&response)
}

async fn admit(member: &Member, said: Admission) -> NodeResponse {
    let cluster = member.ctx.state().cluster.id;
    // Who makes a cluster is its first member before anybody joins.
    let Some(cluster) = cluster.filter(|_| member.id() != MemberId::default()) else {
        return NodeResponse::Refused {
            why: "the member that was asked is starting".into(),
            again: true,
        };
    };
    match member.group.propose(Command::Admit(said)).await {
        Ok(Reply::Admitted(admitted)) => NodeResponse::Joined { cluster, admitted },
        Ok(other) => NodeResponse::Refused {
            why: format!("unexpected answer {other:?}"),
            again: false,
        },
        Err(hydfs_types::AgreementError::Refused(error)) => NodeResponse::Refused {
            why: error.to_string(),
            again: false,
        },
        Err(error) => NodeResponse::Refused {
            why: error.to_string(),
            again: true,
        },
    }
}

/// One request to one member.
pub async fn ask(
    net: &dyn Net,
    addr: SocketAddr,
    request: &NodeRequest,
    deadline: Duration,
) -> Result<NodeResponse, NetError> {
    let frame = net
        .call(addr, member_request(encode(request)), deadline)
        .await?;
    let broken = |why: String| NetError::Broken { addr, why };
    let payload = member_payload(&frame)
        .ok_or_else(|| broken("no answer to a member's request: it is starting".into()))?;
    decode(&payload).map_err(|error| broken(error.to_string()))
}

/// Enters a cluster through any of these doors, trying for `patience`.
pub async fn enter(
    net: &dyn Net,
    doors: &[String],
    said: &Admission,
    patience: Duration,
) -> Result<(ClusterId, Admitted), Error> {
    let deadline = tokio::time::Instant::now() + patience;
    let mut why = String::from("no address to join through was given");
    loop {
        for door in doors {
            let addrs = match tokio::net::lookup_host(door).await {
                Ok(addrs) => addrs.collect::<Vec<_>>(),
                Err(error) => {
                    why = format!("{door}: {error}");
                    continue;
                }
            };
            for addr in addrs {
                match ask(net, addr, &NodeRequest::Join(said.clone()), ASK).await {
                    Ok(NodeResponse::Joined { cluster, admitted }) => {
                        return Ok((cluster, admitted));
                    }
                    Ok(NodeResponse::Refused { why, again: false }) => {
                        return Err(Error::Refused {
                            door: door.clone(),
                            why,
                        });
                    }
                    Ok(NodeResponse::Refused { why: reason, .. }) => {
                        why = format!("{door}: {reason}")
                    }
                    Ok(_) => why = format!("{door}: not an answer to a join"),
                    Err(NetError::Refused { why, .. }) => {
                        return Err(Error::Closed {
                            door: door.clone(),
                            why,
                        });
                    }
                    Err(error) => why = format!("{door}: {error}"),
                }
            }
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Error::NoDoor {
                doors: doors.join(", "),
                why,
            });
        }
        tracing::info!(%why, "cannot join yet; trying again");
        tokio::time::sleep(AGAIN).await;
    }
}
