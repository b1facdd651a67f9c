//! Where frames and datagrams of peers go. A part that is not there yet answers that it is not.

use crate::{join, member::Member};
use bytes::Bytes;
use hydfs_types::{BoxFuture, DataResponse, Frame, Handler, Peer, Refusal, Service};
use std::sync::{Arc, OnceLock, Weak};

/// The member's [`Handler`]: given to the network before the member exists.
#[derive(Default)]
pub struct Router {
    member: OnceLock<Weak<Member>>,
}

impl Router {
    /// From now on frames reach this member.
    pub fn set(&self, member: &Arc<Member>) {
        drop(self.member.set(Arc::downgrade(member)));
    }

    fn member(&self) -> Option<Arc<Member>> {
        self.member.get()?.upgrade()
    }
}

/// The answer of a service that does not run (yet): its own way to say "not now".
fn not_now(service: Service) -> Frame {
    match service {
        Service::Data => Frame::new(
            service,
            &DataResponse::Refused(Refusal::Behind),
            Bytes::new(),
        ),
        _ => Frame {
            service,
            head: Bytes::new(),
            body: Bytes::new(),
        },
    }
}

impl Handler for Router {
    fn serve(&self, from: Peer, frame: Frame) -> BoxFuture<'static, Frame> {
        let member = self.member();
        Box::pin(async move {
            let service = frame.service;
            let Some(member) = member else {
                return not_now(service);
            };
            match service {
                Service::Agreement => match hydfs_agreement::member_payload(&frame) {
                    Some(payload) => {
                        hydfs_agreement::member_response(join::answer(&member, &payload).await)
                    }
                    None => member.group.serve(frame, from).await,
                },
                Service::Data => member.data.serve(frame).await,
                Service::Streaming => match member.streaming.get() {
                    Some(streaming) => streaming.serve(&member, from, frame).await,
                    None => not_now(service),
                },
                Service::Control => member.staging.serve(&from, frame).await,
            }
        })
    }

    fn datagram(&self, from: Peer, payload: Bytes) {
        if let Some(swim) = self.member().as_ref().and_then(|member| member.swim.get()) {
            swim.handle_datagram(from.addr, payload);
        }
    }
}
