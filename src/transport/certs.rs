//! The cluster's certificate authority and its members' certificates, as PEM files in one folder.
//!
//! `ca.crt` and `ca.key` come from [`init`], `NAME.crt` and `NAME.key` from [`issue`]. Keys are Ed25519, readable by
//! their owner only, and nothing is ever overwritten. A certificate names its member as DNS `NAME.hydfs`, serves both
//! ends of a connection, and begins a day before it is made so that wrong clocks do not lock members out.

use crate::TransportError;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType,
};
use ring::rand::{SecureRandom, SystemRandom};
use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Validity of a member's certificate unless told otherwise, in days.
pub const MEMBER_DAYS: u32 = 825;
/// Validity of a CA, in days.
pub const CA_DAYS: u32 = 3650;
/// Ends the DNS name in a member's certificate.
pub(crate) const NAME_SUFFIX: &str = ".hydfs";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const DAYS_MAX: u32 = 36_500;
const NAME_BYTES_MAX: usize = 63;

/// Makes `ca.crt` and `ca.key` in `dir` (made where missing). Keep `ca.key` off the members: who has it can make members.
pub fn init(dir: &Path, cluster_name: &str) -> Result<(), TransportError> {
    std::fs::create_dir_all(dir).map_err(|source| {
        file(
            "create",
            dir,
            source,
            "check the parent folder's owner and free space",
        )
    })?;
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut params = validity(CA_DAYS, SystemTime::now())?;
    // Two CAs of one subject make TLS report "bad signature" where it should say "unknown issuer".
    let subject = format!(
        "hydfs CA {cluster_name} {:016x}",
        u64::from_le_bytes(random()?)
    );
    params.distinguished_name = named(&subject);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    write_pair(&dir.join("ca"), &certificate.pem(), &key.serialize_pem())
}

/// Makes `NAME.crt` and `NAME.key` in `dir`, signed by the CA there. `hosts` are further DNS names or addresses.
pub fn issue(
    dir: &Path,
    name: &str,
    hosts: &[String],
    valid_days: u32,
) -> Result<(), TransportError> {
    issue_at(dir, name, hosts, valid_days, SystemTime::now())
}

/// [`issue`] as if made at `now`: for tests of expiry and of wrong clocks.
pub fn issue_at(
    dir: &Path,
    name: &str,
    hosts: &[String],
    valid_days: u32,
    now: SystemTime,
) -> Result<(), TransportError> {
    check_name(name)?;
    let ca_path = dir.join("ca.crt");
    let ca_key_path = dir.join("ca.key");
    let ca_pem = read(&ca_path)?;
    let ca_key =
        KeyPair::from_pem(&read(&ca_key_path)?).map_err(|error| unusable(&ca_key_path, &error))?;
    let issuer =
        Issuer::from_ca_cert_pem(&ca_pem, ca_key).map_err(|error| unusable(&ca_path, &error))?;

    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut params = validity(valid_days, now)?;
    params.distinguished_name = named(name);
    params.subject_alt_names = subject_names(name, hosts)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer)?;
    write_pair(&dir.join(name), &certificate.pem(), &key.serialize_pem())
}

/// Accepts names that are safe as a DNS label sequence and as a file name.
pub(crate) fn check_name(name: &str) -> Result<(), TransportError> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && name != "ca";
    if fits {
        Ok(())
    } else {
        Err(TransportError::Name { name: name.into() })
    }
}

fn subject_names(name: &str, hosts: &[String]) -> Result<Vec<SanType>, TransportError> {
    let dns = |text: &str| text.to_string().try_into().map(SanType::DnsName);
    let mut names = vec![dns(&format!("{name}{NAME_SUFFIX}"))?];
    for host in hosts {
        let bad = || TransportError::Host { host: host.clone() };
        // A host that ends like a member's name would let one certificate speak for two members.
        if host.is_empty() || host.ends_with(NAME_SUFFIX) {
            return Err(bad());
        }
        names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => dns(host).map_err(|_| bad())?,
        });
    }
    Ok(names)
}

fn validity(days: u32, now: SystemTime) -> Result<CertificateParams, TransportError> {
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(TransportError::Days { days });
    }
    let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since_1970.as_secs());
    let mut params = CertificateParams::default();
    params.not_before = now - DAY;
    params.not_after = now + DAY * days;
    Ok(params)
}

fn random() -> Result<[u8; 8], TransportError> {
    let mut out = [0; 8];
    SystemRandom::new()
        .fill(&mut out)
        .map_err(|_| rcgen::Error::RingUnspecified)?;
    Ok(out)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn read(path: &Path) -> Result<String, TransportError> {
    std::fs::read_to_string(path).map_err(|source| {
        file(
            "read",
            path,
            source,
            "make the cluster's CA first, or name the folder that holds it",
        )
    })
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> TransportError {
    TransportError::Certificate {
        path: path.into(),
        why: format!("not usable as a certificate authority: {why}"),
        remedy: "restore ca.crt and ca.key as they were made",
    }
}

/// Writes `base.key` (0600), then `base.crt`. A certificate without its key is never left behind.
fn write_pair(base: &Path, certificate: &str, key: &str) -> Result<(), TransportError> {
    let (certificate_path, key_path) = (with_extension(base, "crt"), with_extension(base, "key"));
    for path in [&certificate_path, &key_path] {
        if path.exists() {
            return Err(TransportError::Exists { path: path.clone() });
        }
    }
    create(&key_path, key, 0o600)?;
    create(&certificate_path, certificate, 0o644)
}

/// Appends: names may hold dots, which `Path::with_extension` would cut.
pub(crate) fn with_extension(base: &Path, extension: &str) -> PathBuf {
    let mut name = base.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn create(path: &Path, text: &str, mode: u32) -> Result<(), TransportError> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut out| {
            out.write_all(text.as_bytes())?;
            out.sync_all()
        });
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(TransportError::Exists { path: path.into() })
        }
        Err(error) => Err(file(
            "write",
            path,
            error,
            "check the folder's owner and free space",
        )),
    }
}

fn file(
    action: &'static str,
    path: &Path,
    source: std::io::Error,
    remedy: &'static str,
) -> TransportError {
    TransportError::File {
        action,
        path: path.into(),
        source,
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn makes_a_ca_and_members_and_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), "lab").unwrap();
        issue(
            dir.path(),
            "vm1.example",
            &["10.0.0.1".into(), "vm1.lan".into()],
            MEMBER_DAYS,
        )
        .unwrap();
        for key in ["ca.key", "vm1.example.key"] {
            let mode = std::fs::metadata(dir.path().join(key))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        let before = std::fs::read(dir.path().join("ca.crt")).unwrap();
        assert!(matches!(
            init(dir.path(), "lab"),
            Err(TransportError::Exists { .. })
        ));
        assert!(matches!(
            issue(dir.path(), "vm1.example", &[], 1),
            Err(TransportError::Exists { .. })
        ));
        assert_eq!(before, std::fs::read(dir.path().join("ca.crt")).unwrap());
    }

    #[test]
    fn refuses_what_cannot_be_a_member() {
        let dir = tempfile::tempdir().unwrap();
        let missing = issue(dir.path(), "vm1", &[], 1).unwrap_err().to_string();
        assert!(
            missing.contains("ca.crt") && missing.contains("make the cluster's CA first"),
            "{missing}"
        );
        init(dir.path(), "lab").unwrap();
        for name in ["", "ca", "../x", "a/b", ".x", "a b", &"x".repeat(64)] {
            assert!(
                matches!(
                    issue(dir.path(), name, &[], 1),
                    Err(TransportError::Name { .. })
                ),
                "{name}"
            );
        }
        assert!(matches!(
            issue(dir.path(), "vm1", &["vm2.hydfs".into()], 1),
            Err(TransportError::Host { .. })
        ));
        assert!(matches!(
            issue(dir.path(), "vm1", &[], 0),
            Err(TransportError::Days { .. })
        ));
    }
}
