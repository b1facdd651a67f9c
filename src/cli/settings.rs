//! A member's settings: flag over environment variable over TOML file over default. One struct is all of them: the
//! flags, the variables and the file's keys are the same fields, and what was resolved is saved as such a file.

use super::failure::Failure;
use hydfs_node::{
    CERTS_DEFAULT, Config, DATA_DEFAULT, Detection, MOUNT_DEFAULT, PORT_DEFAULT, SCRUB_BYTES_PER_S,
    VOTER_REPLACE_AFTER_DEFAULT,
};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

/// Default copies of each file.
const COPIES_DEFAULT: u8 = 3;
/// Default deadline of one file-system call.
const OP_TIMEOUT_MS_DEFAULT: u64 = 30_000;
/// Default longest wait of a blocking lock.
const LOCK_TIMEOUT_MS_DEFAULT: u64 = 30_000;
/// Default weight on the ring.
const WEIGHT_DEFAULT: u32 = 100;
const ZONE_DEFAULT: &str = "default";
const LOG_DEFAULT: &str = "info,openraft=error";
/// `--mount` value of a member without a mount.
const NO_MOUNT: &str = "none";

/// Settings as given on one of the levels. The file's keys are these names.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Layer {
    /// Name of this member, the same as in its certificate [default: the machine's host name]
    #[arg(long, env = "HYDFS_NAME", value_name = "NAME", hide_env_values = true)]
    pub name: Option<String>,
    /// Data folder, made if missing [default: /var/lib/hydfs]
    #[arg(long, env = "HYDFS_DATA", value_name = "DIR", hide_env_values = true)]
    pub data: Option<PathBuf>,
    /// UDP address to listen at: the only port [default: 0.0.0.0:7400]
    #[arg(
        long,
        env = "HYDFS_LISTEN",
        value_name = "IP:PORT",
        hide_env_values = true
    )]
    pub listen: Option<SocketAddr>,
    /// Address that other members reach this one at [default: --listen, or this machine's address where that is 0.0.0.0]
    #[arg(
        long,
        env = "HYDFS_ADVERTISE",
        value_name = "IP:PORT",
        hide_env_values = true
    )]
    pub advertise: Option<SocketAddr>,
    /// Any members of the cluster to join, one is enough [default: none]
    #[arg(long, env = "HYDFS_JOIN", value_name = "HOST:PORT", num_args = 1.., value_delimiter = ',', hide_env_values = true)]
    pub join: Vec<String>,
    /// Make a new cluster, once, on its first member; ignored where the data folder has one already [default: false]
    #[arg(long, env = "HYDFS_BOOTSTRAP", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_env_values = true)]
    pub bootstrap: Option<bool>,
    /// Folder with ca.crt, NAME.crt and NAME.key [default: /etc/hydfs/certs]
    #[arg(long, env = "HYDFS_CERTS", value_name = "DIR", hide_env_values = true)]
    pub certs: Option<PathBuf>,
    /// Mount point, an existing folder; `none` for a member without a mount [default: /hydfs]
    #[arg(long, env = "HYDFS_MOUNT", value_name = "DIR", hide_env_values = true)]
    pub mount: Option<PathBuf>,
    /// Copies of each file, 1 to 5; the first member's value holds for the cluster [default: 3]
    #[arg(long, env = "HYDFS_COPIES", value_name = "N", hide_env_values = true)]
    pub copies: Option<u8>,
    /// Failure zone of this member: copies go to different ones [default: default]
    #[arg(long, env = "HYDFS_ZONE", value_name = "ZONE", hide_env_values = true)]
    pub zone: Option<String>,
    /// Share of the data in percent of a normal member, 1 to 1000 [default: 100]
    #[arg(
        long,
        env = "HYDFS_WEIGHT",
        value_name = "PERCENT",
        hide_env_values = true
    )]
    pub weight: Option<u32>,
    /// Longest wait of one file operation before ETIMEDOUT [default: 30000]
    #[arg(
        long,
        env = "HYDFS_OP_TIMEOUT_MS",
        value_name = "MS",
        hide_env_values = true
    )]
    pub op_timeout_ms: Option<u64>,
    /// Longest wait of a blocking lock before ETIMEDOUT [default: 30000]
    #[arg(
        long,
        env = "HYDFS_LOCK_TIMEOUT_MS",
        value_name = "MS",
        hide_env_values = true
    )]
    pub lock_timeout_ms: Option<u64>,
    /// A voter that is down for longer gives its vote to another member, if there is one [default: 60]
    #[arg(
        long,
        env = "HYDFS_VOTER_REPLACE_AFTER_S",
        value_name = "S",
        hide_env_values = true
    )]
    pub voter_replace_after_s: Option<u64>,
    /// One other member is probed in each period [default: 400]
    #[arg(
        long,
        env = "HYDFS_PROBE_PERIOD_MS",
        value_name = "MS",
        hide_env_values = true
    )]
    pub probe_period_ms: Option<u64>,
    /// Wait for a probe's answer before others are asked to probe [default: 150]
    #[arg(
        long,
        env = "HYDFS_PROBE_RTT_MS",
        value_name = "MS",
        hide_env_values = true
    )]
    pub probe_rtt_ms: Option<u64>,
    /// Time that a suspected member has to speak up [default: 1500]
    #[arg(
        long,
        env = "HYDFS_SUSPICION_MS",
        value_name = "MS",
        hide_env_values = true
    )]
    pub suspicion_ms: Option<u64>,
    /// What to log, as error, warn, info, debug, trace or per module [default: info,openraft=error]
    #[arg(long, env = "HYDFS_LOG", value_name = "FILTER", hide_env_values = true)]
    pub log: Option<String>,
    /// Let jobs of root run executables [default: false]
    #[arg(long, env = "HYDFS_ALLOW_ROOT_JOBS", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_env_values = true)]
    pub allow_root_jobs: Option<bool>,
    /// Pace of the background check of copies in MiB per second; 0 checks only what reads find suspicious [default: 16]
    #[arg(
        long,
        env = "HYDFS_SCRUB_MIB_S",
        value_name = "MIB",
        hide_env_values = true
    )]
    pub scrub_mib_s: Option<u64>,
    /// Most MiB per second that this member receives, and as many that it serves, for repair; 0: no limit but that callers do not feel it [default: 0]
    #[arg(
        long,
        env = "HYDFS_REPAIR_MIB_S",
        value_name = "MIB",
        hide_env_values = true
    )]
    pub repair_mib_s: Option<u64>,
    /// Let tests inject faults through .cluster [default: false]
    #[arg(long, env = "HYDFS_ALLOW_FAULTS", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_env_values = true)]
    pub allow_faults: Option<bool>,
}

/// Takes each field from `self` where it is set, else from the other.
macro_rules! over {
    ($self:ident, $lower:ident, $($field:ident)*) => {
        Layer {
            join: if $self.join.is_empty() { $lower.join } else { $self.join },
            $($field: $self.$field.or($lower.$field),)*
        }
    };
}

impl Layer {
    /// These settings, and the others' where these say nothing.
    pub fn over(self, lower: Self) -> Self {
        over!(self, lower, name data listen advertise bootstrap certs mount copies zone weight op_timeout_ms lock_timeout_ms
            voter_replace_after_s probe_period_ms probe_rtt_ms suspicion_ms log allow_root_jobs scrub_mib_s repair_mib_s allow_faults)
    }

    /// The lowest level.
    pub fn defaults() -> Self {
        let detection = Detection::default();
        Self {
            name: host_name(),
            data: Some(DATA_DEFAULT.into()),
            listen: Some((Ipv4Addr::UNSPECIFIED, PORT_DEFAULT).into()),
            advertise: None,
            join: Vec::new(),
            bootstrap: Some(false),
            certs: Some(CERTS_DEFAULT.into()),
            mount: Some(MOUNT_DEFAULT.into()),
            copies: Some(COPIES_DEFAULT),
            zone: Some(ZONE_DEFAULT.into()),
            weight: Some(WEIGHT_DEFAULT),
            op_timeout_ms: Some(OP_TIMEOUT_MS_DEFAULT),
            lock_timeout_ms: Some(LOCK_TIMEOUT_MS_DEFAULT),
            voter_replace_after_s: Some(VOTER_REPLACE_AFTER_DEFAULT.as_secs()),
            probe_period_ms: Some(millis(detection.probe_period)),
            probe_rtt_ms: Some(millis(detection.probe_rtt)),
            suspicion_ms: Some(millis(detection.suspicion)),
            log: Some(LOG_DEFAULT.into()),
            allow_root_jobs: Some(false),
            scrub_mib_s: Some(SCRUB_BYTES_PER_S >> 20),
            repair_mib_s: Some(0),
            allow_faults: Some(false),
        }
    }

    /// A TOML file of settings.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(format!(
                "cannot read the configuration {}: {error}",
                path.display()
            ))
        })?;
        // The library's message shows line, column and the keys that exist.
        toml::from_str(&text)
            .map_err(|error| Failure::new(format!("configuration {}: {error}", path.display())))
    }

    /// Writes them as a file that [`Layer::read`] takes, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let failed = |why: &dyn std::fmt::Display| {
            Failure::new(format!("cannot write {}: {why}", path.display()))
        };
        let text = toml::to_string(self).map_err(|error| failed(&error))?;
        let temporary = path.with_extension("toml.new");
        std::fs::write(&temporary, text).map_err(|error| failed(&error))?;
        std::fs::rename(&temporary, path).map_err(|error| failed(&error))
    }

    /// The mount point, if there shall be one.
    pub fn mount_point(&self) -> Option<&Path> {
        self.mount
            .as_deref()
            .filter(|path| *path != Path::new(NO_MOUNT))
    }

    /// Checks everything that needs neither disk nor network, and resolves what is left open.
    pub fn resolve(self) -> Result<Config, Failure> {
        let layer = self.over(Self::defaults());
        layer.check()?;
        let listen = layer
            .listen
            .unwrap_or((Ipv4Addr::UNSPECIFIED, PORT_DEFAULT).into());
        let advertise = advertised(layer.advertise, listen, &layer.join)?;
        Ok(Config {
            name: layer.name.clone().unwrap_or_default(),
            data: layer.data.unwrap_or_else(|| DATA_DEFAULT.into()),
            listen,
            advertise,
            join: layer.join,
            bootstrap: layer.bootstrap.unwrap_or(false),
            certs: layer.certs.unwrap_or_else(|| CERTS_DEFAULT.into()),
            mount: None,
            memory: None,
            copies: layer.copies.unwrap_or(COPIES_DEFAULT),
            zone: layer.zone.unwrap_or_else(|| ZONE_DEFAULT.into()),
            weight: layer.weight.unwrap_or(WEIGHT_DEFAULT),
            op_timeout: Duration::from_millis(layer.op_timeout_ms.unwrap_or(OP_TIMEOUT_MS_DEFAULT)),
            lock_timeout: Duration::from_millis(
                layer.lock_timeout_ms.unwrap_or(LOCK_TIMEOUT_MS_DEFAULT),
            ),
            voter_replace_after: layer
                .voter_replace_after_s
                .map_or(VOTER_REPLACE_AFTER_DEFAULT, Duration::from_secs),
            allow_root_jobs: layer.allow_root_jobs.unwrap_or(false),
            scrub_bytes_per_s: layer.scrub_mib_s.map_or(SCRUB_BYTES_PER_S, |mib| mib << 20),
            repair_bytes_per_s: layer.repair_mib_s.unwrap_or(0) << 20,
            allow_faults: layer.allow_faults.unwrap_or(false),
            detection: Detection {
                probe_period: or_default(layer.probe_period_ms, Detection::default().probe_period),
                probe_rtt: or_default(layer.probe_rtt_ms, Detection::default().probe_rtt),
                suspicion: or_default(layer.suspicion_ms, Detection::default().suspicion),
            },
        })
    }

    fn check(&self) -> Result<(), Failure> {
        if self.name.as_deref().unwrap_or_default().is_empty() {
            return Err(Failure::new(
                "this member has no name: give one with --name",
            ));
        }
        if self.listen.is_some_and(|listen| listen.port() == 0) {
            return Err(Failure::new(
                "--listen needs a fixed port, because other members remember it: choose one, such as 7400",
            ));
        }
        within("--copies", self.copies.map(u64::from), 1, 5)?;
        within("--weight", self.weight.map(u64::from), 1, 1000)?;
        within("--op-timeout-ms", self.op_timeout_ms, 1000, 3_600_000)?;
        within("--lock-timeout-ms", self.lock_timeout_ms, 1, 86_400_000)?;
        within(
            "--voter-replace-after-s",
            self.voter_replace_after_s,
            1,
            86_400,
        )?;
        within("--probe-period-ms", self.probe_period_ms, 20, 60_000)?;
        within("--probe-rtt-ms", self.probe_rtt_ms, 5, 30_000)?;
        within("--suspicion-ms", self.suspicion_ms, 1, 60_000)?;
        within("--scrub-mib-s", self.scrub_mib_s, 0, 65_536)?;
        within("--repair-mib-s", self.repair_mib_s, 0, 65_536)?;
        if self.probe_rtt_ms >= self.probe_period_ms {
            return Err(Failure::new(
                "--probe-rtt-ms must be below --probe-period-ms",
            ));
        }
        for seed in &self.join {
            let port = seed.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) {
                return Err(Failure::new(format!(
                    "--join {seed}: write HOST:PORT, such as n1:7400"
                )));
            }
        }
        Ok(())
    }
}

fn within(flag: &str, value: Option<u64>, low: u64, high: u64) -> Result<(), Failure> {
    match value {
        Some(value) if !(low..=high).contains(&value) => Err(Failure::new(format!(
            "{flag} {value} is not between {low} and {high}"
        ))),
        _ => Ok(()),
    }
}

fn or_default(ms: Option<u64>, default: Duration) -> Duration {
    ms.map_or(default, Duration::from_millis)
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    // The whole name may carry a domain; members are named shortly.
    let short = name.split('.').next().unwrap_or(name);
    (!short.is_empty()).then(|| short.to_owned())
}

/// The address to advertise: as told, else where we listen, else the address that this machine uses towards the
/// members to join (no packet is sent for that), else its own first one.
fn advertised(
    told: Option<SocketAddr>,
    listen: SocketAddr,
    join: &[String],
) -> Result<SocketAddr, Failure> {
    if let Some(told) = told {
        if told.ip().is_unspecified() || told.port() == 0 {
            return Err(Failure::new(format!(
                "--advertise {told} reaches nobody: name this machine's address as the others see it"
            )));
        }
        return Ok(told);
    }
    if !listen.ip().is_unspecified() {
        return Ok(listen);
    }
    let seeds = join
        .iter()
        .filter_map(|seed| seed.to_socket_addrs().ok()?.next());
    let elsewhere: SocketAddr = (Ipv4Addr::new(192, 0, 2, 1), 9).into();
    let ip = seeds.chain([elsewhere]).find_map(source_towards);
    Ok(SocketAddr::new(
        ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        listen.port(),
    ))
}

fn source_towards(target: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, Command, FromArgMatches};

    fn layer(args: &[&str]) -> Layer {
        let command = Layer::augment_args(Command::new("member").no_binary_name(true));
        let matches = command.try_get_matches_from(args).unwrap();
        Layer::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let file: Layer =
            toml::from_str("name = 'f'\nweight = 50\njoin = ['a:1', 'b:2']\n").unwrap();
        let resolved = layer(&["--name", "n1", "--listen", "127.0.0.1:7411"])
            .over(file)
            .resolve()
            .unwrap();
        assert_eq!(resolved.name, "n1");
        assert_eq!(resolved.weight, 50);
        assert_eq!(resolved.join, ["a:1", "b:2"]);
        assert_eq!(resolved.copies, 3);
        assert_eq!(resolved.advertise, "127.0.0.1:7411".parse().unwrap());
        assert_eq!(resolved.op_timeout, Duration::from_secs(30));
    }

    #[test]
    fn the_help_names_every_default_and_variable() {
        let mut command = Layer::augment_args(Command::new("member"));
        let help = command.render_long_help().to_string();
        let defaults = toml::Table::try_from(Layer::defaults()).unwrap();
        for (key, value) in defaults {
            let arg = command
                .get_arguments()
                .find(|a| a.get_id() == key.as_str())
                .unwrap();
            let text = arg.get_help().unwrap().to_string();
            let value = match value {
                _ if key == "name" => "the machine's host name".to_owned(),
                toml::Value::String(text) => text,
                toml::Value::Array(_) => "none".to_owned(),
                other => other.to_string(),
            };
            assert!(
                text.contains(&format!("[default: {value}]")),
                "--{key}: {text}"
            );
            let variable = format!("HYDFS_{}", key.to_uppercase());
            assert!(help.contains(&variable), "{variable} is not in the help");
        }
    }

    #[test]
    fn the_same_keys_come_back_from_a_saved_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("member.toml");
        let all = layer(&["--name", "x", "--join", "h:1", "h:2", "--mount", "none"])
            .over(Layer::defaults());
        all.save(&path).unwrap();
        assert_eq!(Layer::read(&path).unwrap(), all);
        assert_eq!(all.mount_point(), None);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "name = 'a'\nlisen = '1.2.3.4:5'\n").unwrap();
        let text = Layer::read(&path).unwrap_err().to_string();
        assert!(text.contains("line 2") && text.contains("lisen"), "{text}");
    }

    #[test]
    fn senseless_values_are_refused_with_the_flag_named() {
        for (args, word) in [
            (vec!["--copies", "6"], "--copies"),
            (vec!["--listen", "1.2.3.4:0"], "--listen"),
            (vec!["--advertise", "0.0.0.0:7"], "--advertise"),
            (vec!["--join", "n1"], "--join"),
            (vec!["--probe-rtt-ms", "500"], "--probe-rtt-ms"),
        ] {
            let failure = layer(&args).resolve().unwrap_err().to_string();
            assert!(failure.contains(word), "{failure}");
        }
    }

    #[test]
    fn join_takes_several_values_in_every_way() {
        let expect = ["a:1", "b:2", "c:3"];
        assert_eq!(layer(&["--join", "a:1", "b:2", "c:3"]).join, expect);
        assert_eq!(layer(&["--join", "a:1,b:2,c:3"]).join, expect);
        assert_eq!(layer(&["--join", "a:1", "--join", "b:2,c:3"]).join, expect);
    }
}
