//! What is checked before a member touches anything: each failure names what is wrong and what to do.

use super::failure::Failure;
use hydfs_node::Config;
use hydfs_transport::Identity;
use std::{
    fs::{File, OpenOptions, TryLockError},
    io::ErrorKind,
    net::UdpSocket,
    path::Path,
    time::{Duration, Instant},
};

/// File in the data folder that one supervisor holds locked, its worker with it.
const LOCK_FILE: &str = "lock";
/// A worker whose supervisor was just killed needs a moment to go.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// Makes and locks the data folder and checks certificates, port and mount point. The lock is to be held for as
/// long as the member runs, by the worker as well.
pub fn check(config: &Config, mount: Option<&Path>) -> Result<File, Failure> {
    check_entrance(config)?;
    check_folders(config, mount)?;
    let lock = lock(&config.data)?;
    Identity::load(&config.certs, &config.name).map_err(|error| {
        Failure::new(format!(
            "{error}\n  `hydfs certs issue {}` makes a certificate; --certs names its folder",
            config.name
        ))
    })?;
    check_port(config)?;
    Ok(lock)
}

fn check_entrance(config: &Config) -> Result<(), Failure> {
    if Config::is_member_folder(&config.data) {
        return Ok(());
    }
    match (config.bootstrap, config.join.is_empty()) {
        (true, false) => Err(Failure::new(
            "--bootstrap makes a new cluster and --join enters an existing one: give one of them",
        )),
        (false, true) => Err(Failure::new(format!(
            "{} belongs to no cluster yet: give --join HOST:PORT of any member, or --bootstrap on the first one",
            config.data.display()
        ))),
        _ => Ok(()),
    }
}

fn check_folders(config: &Config, mount: Option<&Path>) -> Result<(), Failure> {
    let data = &config.data;
    if let Some(mount) = mount
        && (data.starts_with(mount) || config.certs.starts_with(mount))
    {
        return Err(Failure::new(format!(
            "data and certificates cannot lie below the mount point {}: choose folders outside of it",
            mount.display()
        )));
    }
    let shown = data.display();
    std::fs::create_dir_all(data).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => Failure::new(format!(
            "data folder {shown} is not a folder: choose another with --data"
        )),
        _ => Failure::new(format!(
            "cannot make the data folder {shown}: {error}; make it, or choose another with --data"
        )),
    })?;
    let probe = data.join(".writable");
    let written = std::fs::write(&probe, b"hydfs").and_then(|()| std::fs::remove_file(&probe));
    written.and_then(|()| std::fs::read_dir(data).map(drop)).map_err(|error| {
        Failure::new(format!("data folder {shown} cannot be read and written by this user: {error}; give it to the user of hydfs (chown), or free space"))
    })
}

fn lock(data: &Path) -> Result<File, Failure> {
    let path = data.join(LOCK_FILE);
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format!("cannot lock {}: {error}", path.display()))
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| failed(&e))?;
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new(format!(
                    "the data folder {} is used by a running member: stop that one, or give each member its own --data",
                    data.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
    }
}

fn check_port(config: &Config) -> Result<(), Failure> {
    let listen = config.listen;
    match UdpSocket::bind(listen) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(match error.kind() {
            ErrorKind::AddrInUse => format!(
                "UDP port {} is in use: stop the program that has it (ss -ulpn), or choose another with --listen",
                listen.port()
            ),
            ErrorKind::AddrNotAvailable => format!(
                "this machine has no address {}: give one of its own, or 0.0.0.0, with --listen",
                listen.ip()
            ),
            _ => format!("cannot listen at UDP {listen}: {error}; choose another with --listen"),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Layer;
    use super::*;

    fn config(data: &Path) -> Config {
        let layer = Layer {
            name: Some("n1".into()),
            data: Some(data.to_owned()),
            certs: Some(data.join("certs")),
            listen: Some("127.0.0.1:1".parse().unwrap()),
            bootstrap: Some(true),
            ..Layer::default()
        };
        layer.resolve().unwrap()
    }

    fn refusal(config: &Config, mount: Option<&Path>) -> String {
        check(config, mount).unwrap_err().to_string()
    }

    #[test]
    fn a_new_folder_needs_exactly_one_way_in() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.join = vec!["a:1".into()];
        assert!(refusal(&config, None).contains("give one of them"));
        config.join.clear();
        config.bootstrap = false;
        assert!(refusal(&config, None).contains("--join HOST:PORT"));
        std::fs::write(dir.path().join(hydfs_node::FORMAT_FILE), "x").unwrap();
        assert!(
            refusal(&config, None).contains("ca.crt"),
            "a member's folder needs no way in"
        );
    }

    #[test]
    fn a_data_folder_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(refusal(&config(&file), None).contains("is not a folder"));
        assert!(
            refusal(
                &config(&dir.path().join("mnt/data")),
                Some(&dir.path().join("mnt"))
            )
            .contains("below the mount point")
        );
    }

    #[test]
    fn a_folder_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(
            lock(dir.path())
                .unwrap_err()
                .to_string()
                .contains("running member")
        );
        drop(held);
        lock(dir.path()).unwrap();
    }

    #[test]
    fn a_port_in_use_is_refused_with_the_port_named() {
        let dir = tempfile::tempdir().unwrap();
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut config = config(dir.path());
        config.listen = taken.local_addr().unwrap();
        let text = check_port(&config).unwrap_err().to_string();
        assert!(
            text.contains(&config.listen.port().to_string()) && text.contains("in use"),
            "{text}"
        );
        config.listen = "192.0.2.7:7400".parse().unwrap();
        assert!(
            check_port(&config)
                .unwrap_err()
                .to_string()
                .contains("no address")
        );
    }
}
