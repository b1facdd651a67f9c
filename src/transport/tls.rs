//! TLS 1.3 in both directions: whom a member believes, and the QUIC configurations that carry it.
//!
//! Both ends show a certificate of the cluster's CA. Peers are dialled by address, so the dialler checks chain and
//! dates here and takes the name from the certificate; the hello then has to match it. Sessions are never resumed:
//! a resumed session would outlive its certificate.

use crate::{Identity, TransportError, certs::NAME_SUFFIX, tuning};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
    version::TLS13,
};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const ALPN: &[u8] = b"hydfs/1";

/// The configurations of one identity; "local" are for loopback addresses, where packets may be large.
pub(crate) struct Tls {
    pub(crate) client: quinn::ClientConfig,
    pub(crate) client_local: quinn::ClientConfig,
    pub(crate) server: Arc<quinn::ServerConfig>,
    pub(crate) server_local: Arc<quinn::ServerConfig>,
}

impl Tls {
    pub(crate) fn new(identity: &Identity) -> Result<Self, TransportError> {
        let client = Arc::new(client(identity)?);
        let server = Arc::new(server(identity)?);
        let client_for = |mtu| {
            let mut config = quinn::ClientConfig::new(client.clone());
            config.transport_config(Arc::new(tuning::dialled(mtu)));
            config
        };
        let server_for = |mtu| {
            let mut config = quinn::ServerConfig::with_crypto(server.clone());
            config.transport_config(Arc::new(tuning::accepted(mtu)));
            tuning::limit_incoming(&mut config);
            Arc::new(config)
        };
        Ok(Self {
            client: client_for(None),
            client_local: client_for(Some(tuning::LOOPBACK_MTU_BYTES)),
            server: server_for(None),
            server_local: server_for(Some(tuning::LOOPBACK_MTU_BYTES)),
        })
    }
}

/// The one crypto provider: never the process default, which another crate may have set.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn no_suite(error: quinn::crypto::rustls::NoInitialCipherSuite) -> Error {
    Error::General(error.to_string())
}

fn server(identity: &Identity) -> Result<QuicServerConfig, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(identity.roots.clone(), provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map_err(no_suite)
}

fn client(identity: &Identity) -> Result<QuicClientConfig, Error> {
    let inner = WebPkiServerVerifier::builder_with_provider(identity.roots.clone(), provider())
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let verifier = Arc::new(MemberVerifier {
        inner,
        roots: identity.roots.clone(),
    });
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // only the host name check is replaced, see MemberVerifier
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    QuicClientConfig::try_from(config).map_err(no_suite)
}

/// Checks that a certificate chains to the cluster's CA and is valid at `now`.
pub(crate) fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: UnixTime,
) -> Result<(), Error> {
    let parsed = ParsedCertificate::try_from(leaf)?;
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
}

/// The member named by a certificate: its only DNS name under `.hydfs`.
pub(crate) fn member_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let mut found = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(dns) => dns.strip_suffix(NAME_SUFFIX),
            _ => None,
        });
    let name = found.next()?;
    found.next().is_none().then(|| name.to_string())
}

/// The member at the other end of an established connection.
pub(crate) fn peer_name(connection: &quinn::Connection) -> Option<String> {
    let identity = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    member_name(identity.first()?)
}

/// The library's verifier of servers, except that the name is not known beforehand: any member of the cluster will do.
#[derive(Debug)]
struct MemberVerifier {
    inner: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
}

impl ServerCertVerifier for MemberVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_chain(leaf, intermediates, &self.roots, now)?;
        if member_name(leaf).is_none() {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
