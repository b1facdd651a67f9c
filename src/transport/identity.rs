//! A member's certificate, its key and the CAs it trusts, read and checked with errors that say what to do.

use crate::{TransportError, certs, tls};
use ring::hmac;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Who a member is, provably.
pub struct Identity {
    name: String,
    dir: PathBuf,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    /// All CAs in `ca.crt`; more than one while a CA is being replaced.
    pub(crate) roots: Arc<RootCertStore>,
}

impl Identity {
    /// Reads `ca.crt`, `NAME.crt` and `NAME.key` from `dir` and checks that they fit together and are valid now.
    pub fn load(dir: &Path, name: &str) -> Result<Self, TransportError> {
        let identity = Self::read(dir, name)?;
        identity.check()?;
        Ok(identity)
    }

    /// [`Identity::load`] without the check of dates and issuer: peers check those, and tests need bad ones.
    pub fn read(dir: &Path, name: &str) -> Result<Self, TransportError> {
        certs::check_name(name)?;
        let ca_path = dir.join("ca.crt");
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&ca_path)? {
            roots.add(certificate).map_err(|error| {
                bad(
                    &ca_path,
                    &error,
                    "copy ca.crt from the folder where the CA was made",
                )
            })?;
        }
        let path = certs::with_extension(&dir.join(name), "crt");
        let chain = certificates(&path)?;
        let key_path = certs::with_extension(&dir.join(name), "key");
        let key = PrivateKeyDer::from_pem_slice(&read(&key_path)?)
            .map_err(|error| bad(&key_path, &error, "issue the member's certificate again"))?;
        CertifiedKey::from_der(chain.clone(), key.clone_key(), &tls::provider()).map_err(
            |error| {
                bad(
                    &key_path,
                    &error,
                    "key and certificate must come from the same issue; copy both",
                )
            },
        )?;
        let found = chain.first().and_then(tls::member_name);
        if found.as_deref() != Some(name) {
            let why = format!(
                "it names {}, not {name}",
                found.as_deref().unwrap_or("no member")
            );
            return Err(bad(&path, &why, "issue a certificate for this name"));
        }
        Ok(Self {
            name: name.into(),
            dir: dir.into(),
            chain,
            key,
            roots: Arc::new(roots),
        })
    }

    /// The member's name, as its certificate says.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn check(&self) -> Result<(), TransportError> {
        let (leaf, rest) = self
            .chain
            .split_first()
            .expect("read() found a name in the first certificate");
        tls::verify_chain(leaf, rest, &self.roots, UnixTime::now()).map_err(|error| {
            let remedy = match &error {
                rustls::Error::InvalidCertificate(
                    rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. },
                ) => "issue a new certificate from the cluster's CA, or set this machine's clock",
                rustls::Error::InvalidCertificate(
                    rustls::CertificateError::NotValidYet | rustls::CertificateError::NotValidYetContext { .. },
                ) => "set this machine's clock",
                _ => "ca.crt must be of the CA that signed the certificate; copy both from the same folder",
            };
            bad(&certs::with_extension(&self.dir.join(&self.name), "crt"), &error, remedy)
        })
    }

    /// A secret that stays the same over restarts, for one purpose.
    pub(crate) fn derived_secret(&self, purpose: &str) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.secret_der());
        let tag = hmac::sign(&key, purpose.as_bytes());
        tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.name)
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let remedy = "it must hold PEM certificates; copy it again from the folder where it was made";
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(bad(path, &"no certificate in it", remedy)),
        Err(error) => Err(bad(path, &error, remedy)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TransportError> {
    std::fs::read(path).map_err(|source| TransportError::File {
        action: "read",
        path: path.into(),
        source,
        remedy: "issue the member's certificate and copy ca.crt, NAME.crt and NAME.key here, readable by this user",
    })
}

fn bad(path: &Path, why: &dyn fmt::Display, remedy: &'static str) -> TransportError {
    TransportError::Certificate {
        path: path.into(),
        why: why.to_string(),
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn errors_name_the_file_and_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        certs::init(dir, "lab").unwrap();
        let missing = Identity::load(dir, "vm1").unwrap_err().to_string();
        assert!(
            missing.contains("vm1.crt") && missing.contains("issue"),
            "{missing}"
        );

        certs::issue_at(dir, "old", &[], 1, SystemTime::now() - 30 * DAY).unwrap();
        let expired = Identity::load(dir, "old").unwrap_err().to_string();
        assert!(
            expired.contains("old.crt") && expired.contains("issue a new certificate"),
            "{expired}"
        );

        certs::issue(dir, "vm1", &[], 10).unwrap();
        std::fs::copy(dir.join("vm1.crt"), dir.join("vm2.crt")).unwrap();
        std::fs::copy(dir.join("vm1.key"), dir.join("vm2.key")).unwrap();
        let other = Identity::load(dir, "vm2").unwrap_err().to_string();
        assert!(other.contains("it names vm1, not vm2"), "{other}");

        std::fs::copy(dir.join("old.key"), dir.join("vm1.key")).unwrap();
        let mixed = Identity::load(dir, "vm1").unwrap_err().to_string();
        assert!(
            mixed.contains("vm1.key") && mixed.contains("copy both"),
            "{mixed}"
        );
    }

    #[test]
    fn a_certificate_of_another_ca_is_found_before_the_start() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&ours, &theirs] {
            certs::init(dir.path(), "lab").unwrap();
        }
        certs::issue(theirs.path(), "vm1", &[], 10).unwrap();
        for file in ["vm1.crt", "vm1.key"] {
            std::fs::copy(theirs.path().join(file), ours.path().join(file)).unwrap();
        }
        let wrong = Identity::load(ours.path(), "vm1").unwrap_err().to_string();
        assert!(wrong.contains("the CA that signed"), "{wrong}");
    }

    #[test]
    fn derived_secrets_survive_a_restart_and_differ_by_purpose() {
        let dir = tempfile::tempdir().unwrap();
        certs::init(dir.path(), "lab").unwrap();
        certs::issue(dir.path(), "vm1", &[], 10).unwrap();
        let secret = |purpose| {
            Identity::load(dir.path(), "vm1")
                .unwrap()
                .derived_secret(purpose)
        };
        assert_eq!(secret("a"), secret("a"));
        assert_ne!(secret("a"), secret("b"));
    }
}
