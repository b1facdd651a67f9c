//! Who may not talk to a member (fault M13): no certificate, another CA, an expired one, another cluster.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Echo, LONG, Lab, echo, frame, options, start};
use hydfs_transport::{Identity, Options, Quic, Who, certs};
use hydfs_types::{ClusterId, Net, NetError};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

const HOUR: Duration = Duration::from_secs(3_600);

/// Nothing reached the handler and no connection passed the hello.
fn untouched(member: &Quic, handler: &Echo) {
    assert_eq!(handler.seen(), 0);
    assert_eq!(member.counters().get("hydfs_net_accepts_total"), Some(0));
}

async fn refused(stranger: &Quic, member: &Quic, text: &str) {
    stranger.send_datagram(member.local_addr(), "SUS vm3".into());
    match stranger
        .call(member.local_addr(), frame("x", "y"), LONG)
        .await
    {
        Err(NetError::Refused { why, .. }) => assert!(why.contains(text), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn fault_m13_no_certificate() {
    let lab = Lab::new();
    let (member, handler) = lab.member("vm1");
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(lab.dir.path().join("ca.crt")).unwrap())
        .unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13])
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    tls.alpn_protocols = vec![b"hydfs/1".to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let connecting = endpoint
        .connect_with(config, member.local_addr(), "vm1.hydfs")
        .unwrap();
    // TLS 1.3 lets the client believe in the connection; whatever it sends must reach nobody.
    if let Ok(connection) = connecting.await {
        connection.send_datagram("SUS vm3".into()).ok();
        if let Ok((mut send, _recv)) = connection.open_bi().await {
            send.write_all(&frame("x", "").prefix()).await.ok();
            send.finish().ok();
        }
        let end = tokio::time::timeout(LONG, connection.closed())
            .await
            .unwrap()
            .to_string();
        assert!(end.contains("certificate"), "{end}");
    }
    common::until("it was refused", || {
        member.counters().get("hydfs_net_refused_total") == Some(1)
    })
    .await;
    untouched(&member, &handler);
}

#[tokio::test]
async fn fault_m13_other_authority() {
    let (lab, other) = (Lab::new(), Lab::new());
    let (member, handler) = lab.member("vm1");
    let (stranger, _) = other.member("vm2");
    refused(
        &stranger,
        &member,
        "its certificate is not of the same certificate authority",
    )
    .await;

    // One that believes in our CA, but is not of it.
    let both = [lab.dir.path(), other.dir.path()]
        .map(|dir| std::fs::read_to_string(dir.join("ca.crt")).unwrap());
    std::fs::write(other.dir.path().join("ca.crt"), both.concat()).unwrap();
    let (stranger, _) = start(options(Identity::read(other.dir.path(), "vm2").unwrap()));
    refused(
        &stranger,
        &member,
        "our certificate is not of the same certificate authority",
    )
    .await;
    untouched(&member, &handler);
}

#[tokio::test]
async fn fault_m13_expired_certificate() {
    let lab = Lab::new();
    let (member, handler) = lab.member("vm1");
    certs::issue_at(lab.dir.path(), "vm2", &[], 1, SystemTime::now() - 48 * HOUR).unwrap();
    let (stranger, stranger_handler) =
        start(options(Identity::read(lab.dir.path(), "vm2").unwrap()));
    refused(&stranger, &member, "our certificate has expired").await;
    refused(&member, &stranger, "its certificate has expired").await;
    untouched(&member, &handler);
    untouched(&stranger, &stranger_handler);
}

#[tokio::test]
async fn fault_m13_other_cluster() {
    let lab = Lab::new();
    let (member, handler) = lab.member("vm1");
    let who = Who {
        cluster: Some(ClusterId([8; 16])),
        ..Who::default()
    };
    let (stranger, _) = start(Options {
        who,
        ..lab.options("vm2")
    });
    refused(&stranger, &member, "correct the seed address").await;
    untouched(&member, &handler);
}

#[tokio::test]
async fn a_clock_one_hour_off_still_works() {
    let lab = Lab::new();
    for (name, made) in [
        ("fast", SystemTime::now() + HOUR),
        ("slow", SystemTime::now() - HOUR),
    ] {
        certs::issue_at(lab.dir.path(), name, &[], 10, made).unwrap();
    }
    let ((a, _), (b, _)) = (lab.member("fast"), lab.member("slow"));
    echo(&a, b.local_addr()).await.unwrap();
    echo(&b, a.local_addr()).await.unwrap();
}

#[tokio::test]
async fn a_new_certificate_is_used_without_a_restart() {
    let lab = Lab::new();
    let ((a, _), (b, _)) = (lab.member("vm1"), lab.member("vm2"));
    echo(&a, b.local_addr()).await.unwrap();
    for file in ["vm1.crt", "vm1.key"] {
        std::fs::remove_file(lab.dir.path().join(file)).unwrap();
    }
    a.set_identity(&lab.identity("vm1")).unwrap();
    echo(&a, b.local_addr()).await.unwrap();
    assert_eq!(a.counters().get("hydfs_net_connects_total"), Some(2));
    let other = a
        .set_identity(&lab.identity("vm3"))
        .unwrap_err()
        .to_string();
    assert!(other.contains("vm1 cannot become vm3"), "{other}");
}

/// A machine whose data folder was lost: its cluster goes on to call it, and must not be answered by who it is not any more.
#[tokio::test]
async fn a_member_of_a_cluster_may_not_call_one_that_is_in_none() {
    let lab = Lab::new();
    let (old, _) = lab.member("vm1");
    let (fresh, handler) = start(Options {
        who: Who::default(),
        ..lab.options("vm2")
    });
    let knocked = fresh.knocked();
    tokio::pin!(knocked);
    assert!(
        tokio::time::timeout(Duration::ZERO, &mut knocked)
            .await
            .is_err()
    );
    refused(&old, &fresh, "in no cluster").await;
    untouched(&fresh, &handler);
    assert_eq!(knocked.await, common::CLUSTER);
    // The other way is how members join.
    echo(&fresh, old.local_addr()).await.unwrap();
}
