//! Faults that tests put on a running member through `.cluster/faults`: on what it sends to and gets from other members,
//! and on its disk. Each ends by itself. Nothing of it is there unless the member runs with `allow_faults`.
//!
//! A fault is one line of words: `loss=30% to=n3 for=60s`. One of `cut`, `loss=PERCENT%`, `delay=TIME` with `to=`, `from=` or
//! `with=` (both ways) and a member's name or `all`; or one of `disk=full`, `disk=eio`, `disk=broken`, `disk=slow:TIME`; and `for=TIME`.

use hydfs_mount::FsError;
use hydfs_store::DiskFaults;
use hydfs_transport::Fault;
use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Faults at once on one member.
const FAULTS_MAX: usize = 64;
/// Longest a fault lasts.
const FOR_MAX: Duration = Duration::from_secs(3600);
/// Longest line.
const LINE_BYTES_MAX: usize = 1024;
/// Every member.
const ALL: &str = "all";

/// Which way a network fault works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    To,
    From,
    With,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Net {
        fault: Fault,
        way: Way,
        /// A member's name, or [`ALL`].
        peer: String,
    },
    Disk(DiskFaults),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Spec {
    what: What,
    lasts: Duration,
}

struct Active {
    line: String,
    spec: Spec,
    until: Instant,
}

/// The faults of one member. Names without a line yet do nothing.
#[derive(Default)]
pub struct Faults(Mutex<BTreeMap<String, Option<Active>>>);

impl Faults {
    /// What is there, without what has ended.
    fn active(&self) -> MutexGuard<'_, BTreeMap<String, Option<Active>>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        all.retain(|name, one| {
            let goes_on = one.as_ref().is_none_or(|one| one.until > now);
            if !goes_on {
                tracing::warn!(name, "an injected fault has ended");
            }
            goes_on
        });
        all
    }

    /// Names of the faults there are.
    pub fn names(&self) -> Vec<String> {
        self.active().keys().cloned().collect()
    }

    /// A fault's line and how long it still lasts.
    pub fn text(&self, name: &str) -> Option<String> {
        let all = self.active();
        let mut text = String::new();
        if let Some(one) = all.get(name)? {
            let left = one.until.saturating_duration_since(Instant::now());
            writeln!(text, "{}\n# {:.1} s left", one.line, left.as_secs_f64())
                .expect("text in memory");
        }
        Some(text)
    }

    /// Makes a fault, or puts another in its place; an empty text makes a name that does nothing yet. `knows` says whether a
    /// member of that name exists.
    pub fn put(
        &self,
        name: &str,
        text: &[u8],
        knows: impl Fn(&str) -> bool,
    ) -> Result<(), FsError> {
        let refused = |why: String| {
            tracing::warn!(name, why, "a fault was refused");
            FsError::Invalid(why)
        };
        if text.len() > LINE_BYTES_MAX {
            return Err(refused(format!(
                "a fault is one line of at most {LINE_BYTES_MAX} bytes"
            )));
        }
        let line = std::str::from_utf8(text)
            .map_err(|error| refused(error.to_string()))?
            .trim();
        let active = match line {
            "" => None,
            line => {
                let spec = parse(line, knows).map_err(refused)?;
                Some(Active {
                    line: line.to_owned(),
                    until: Instant::now() + spec.lasts,
                    spec,
                })
            }
        };
        let mut all = self.active();
        if all.len() >= FAULTS_MAX && !all.contains_key(name) {
            return Err(FsError::NoSpace(format!("{FAULTS_MAX} faults are there")));
        }
        match active {
            Some(active) => {
                tracing::warn!(name, line, "a fault is injected");
                all.insert(name.to_owned(), Some(active));
            }
            None => drop(all.entry(name.to_owned()).or_insert(None)),
        }
        Ok(())
    }

    /// Ends a fault.
    pub fn remove(&self, name: &str) -> Result<(), FsError> {
        match self.active().remove(name) {
            Some(_) => {
                tracing::warn!(name, "an injected fault was removed");
                Ok(())
            }
            None => Err(FsError::NotFound),
        }
    }

    /// The fault on what goes to this member.
    pub fn on_way_to(&self, peer: &str) -> Option<Fault> {
        self.on_net(peer, Way::To)
    }

    /// The fault on what comes from this member.
    pub fn on_way_from(&self, peer: &str) -> Option<Fault> {
        self.on_net(peer, Way::From)
    }

    /// The worst of them: a cut, else the first.
    fn on_net(&self, peer: &str, towards: Way) -> Option<Fault> {
        let all = self.active();
        let mut found = all
            .values()
            .flatten()
            .filter_map(|one| match &one.spec.what {
                What::Net {
                    fault,
                    way,
                    peer: named,
                } if (*way == towards || *way == Way::With) && (named == peer || named == ALL) => {
                    Some(*fault)
                }
                _ => None,
            });
        let first = found.next()?;
        Some(if found.any(|one| one == Fault::Drop) {
            Fault::Drop
        } else {
            first
        })
    }

    /// How the disk fails now.
    pub fn on_disk(&self) -> DiskFaults {
        let all = self.active();
        all.values()
            .flatten()
            .fold(DiskFaults::default(), |sum, one| match &one.spec.what {
                What::Disk(disk) => DiskFaults {
                    full: sum.full || disk.full,
                    unreadable: sum.unreadable || disk.unreadable,
                    broken: sum.broken || disk.broken,
                    slow: sum.slow.max(disk.slow),
                },
                What::Net { .. } => sum,
            })
    }
}

/// Reads a fault's line.
fn parse(line: &str, knows: impl Fn(&str) -> bool) -> Result<Spec, String> {
    let (mut fault, mut disk, mut peer, mut lasts) = (None, None, None, None);
    for word in line.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let twice = match key {
            "cut" if value.is_empty() => fault.replace(Fault::Drop).is_some(),
            "loss" => fault.replace(Fault::Loss(percent(value)?)).is_some(),
            "delay" => fault.replace(Fault::Delay(time(value)?)).is_some(),
            "disk" => disk.replace(disk_fault(value)?).is_some(),
            "to" => peer.replace((Way::To, value)).is_some(),
            "from" => peer.replace((Way::From, value)).is_some(),
            "with" => peer.replace((Way::With, value)).is_some(),
            "for" => lasts.replace(time(value)?).is_some(),
            _ => {
                return Err(format!(
                    "{word} is not known: write cut, loss=30%, delay=50ms or disk=full|eio|broken|slow:50ms, to=, from= or with=MEMBER, and for=60s"
                ));
            }
        };
        if twice {
            return Err(format!(
                "{word} is one too many: a fault is one thing in one direction; make another file for another"
            ));
        }
    }
    let lasts = lasts.ok_or("say how long: for=60s")?;
    if lasts.is_zero() || lasts > FOR_MAX {
        return Err(format!("for= is at most {} s", FOR_MAX.as_secs()));
    }
    let what = match (fault, disk, peer) {
        (Some(fault), None, Some((way, peer))) => {
            if peer != ALL && !knows(peer) {
                return Err(format!("no member is named {peer}"));
            }
            What::Net {
                fault,
                way,
                peer: peer.to_owned(),
            }
        }
        (Some(_), None, None) => return Err("say between whom: to=, from= or with=MEMBER".into()),
        (None, Some(disk), None) => What::Disk(disk),
        _ => return Err("a fault is either of the network or of the disk".into()),
    };
    Ok(Spec { what, lasts })
}

fn percent(value: &str) -> Result<u8, String> {
    value
        .strip_suffix('%')
        .and_then(|number| number.parse().ok())
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(|| format!("loss={value}: write 1% to 100%"))
}

fn time(value: &str) -> Result<Duration, String> {
    let millis = value
        .strip_suffix("ms")
        .map(|number| (number, 1))
        .or_else(|| value.strip_suffix('s').map(|number| (number, 1000)))
        .and_then(|(number, unit)| number.parse::<u64>().ok()?.checked_mul(unit))
        .filter(|millis| *millis <= FOR_MAX.as_millis() as u64);
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{value} is no time: write 50ms or 60s"))
}

fn disk_fault(value: &str) -> Result<DiskFaults, String> {
    let none = DiskFaults::default();
    match value.split_once(':').unwrap_or((value, "")) {
        ("full", "") => Ok(DiskFaults { full: true, ..none }),
        ("eio", "") => Ok(DiskFaults {
            unreadable: true,
            ..none
        }),
        ("broken", "") => Ok(DiskFaults {
            broken: true,
            ..none
        }),
        ("slow", by) => Ok(DiskFaults {
            slow: time(by)?.min(Duration::from_secs(10)),
            ..none
        }),
        _ => Err(format!(
            "disk={value}: write full, eio, broken or slow:50ms"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knows(name: &str) -> bool {
        name == "n2" || name == "n3"
    }

    #[test]
    fn lines_say_what_they_say() {
        let spec = parse("loss=30% to=n3 for=60s", knows).expect("a fault");
        assert_eq!(spec.lasts, Duration::from_secs(60));
        let net = |fault, way| What::Net {
            fault,
            way,
            peer: "n3".into(),
        };
        assert_eq!(spec.what, net(Fault::Loss(30), Way::To));
        let spec = parse("cut with=n3 for=900ms", knows).expect("a fault");
        assert_eq!(spec.what, net(Fault::Drop, Way::With));
        let spec = parse("for=1s disk=slow:20ms", knows).expect("a fault");
        let slow = DiskFaults {
            slow: Duration::from_millis(20),
            ..DiskFaults::default()
        };
        assert_eq!(spec.what, What::Disk(slow));
    }

    #[test]
    fn lines_that_say_nothing_are_refused_with_a_reason() {
        for (line, word) in [
            ("loss=30% to=n3", "for="),
            ("loss=30 to=n3 for=1s", "1%"),
            ("loss=0% to=n3 for=1s", "1%"),
            ("cut for=1s", "between whom"),
            ("cut to=n9 for=1s", "n9"),
            ("cut to=n3 from=n2 for=1s", "one too many"),
            ("cut to=n3 for=2h", "2h"),
            ("cut to=n3 for=99999s", "no time"),
            ("disk=fast for=1s", "slow"),
            ("disk=full to=n3 for=1s", "either"),
            ("pause for=1s", "pause"),
        ] {
            let why = parse(line, knows).expect_err(line);
            assert!(why.contains(word), "{line}: {why}");
        }
    }

    #[test]
    fn faults_work_their_way_and_end() {
        let faults = Faults::default();
        faults.put("x", b"", knows).expect("a name");
        assert_eq!(faults.text("x").as_deref(), Some(""));
        assert_eq!(faults.on_way_to("n3"), None);
        faults
            .put("x", b"loss=10% to=n3 for=100s\n", knows)
            .expect("a fault");
        faults
            .put("y", b"cut from=all for=100s", knows)
            .expect("a fault");
        assert_eq!(faults.on_way_to("n3"), Some(Fault::Loss(10)));
        assert_eq!(faults.on_way_to("n2"), None);
        assert_eq!(faults.on_way_from("n2"), Some(Fault::Drop));
        faults
            .put("z", b"cut with=n3 for=100s", knows)
            .expect("a fault");
        assert_eq!(faults.on_way_to("n3"), Some(Fault::Drop), "a cut is worse");
        faults.remove("z").expect("it is there");
        assert_eq!(faults.remove("z"), Err(FsError::NotFound));
        assert!(faults.put("y", b"nonsense", knows).is_err());
        assert_eq!(faults.names(), ["x", "y"]);
        faults
            .put("x", b"disk=full for=1ms", knows)
            .expect("a fault");
        let began = Instant::now();
        while faults.on_disk().full {
            assert!(began.elapsed() < Duration::from_secs(10), "it does not end");
        }
        assert_eq!(faults.names(), ["y"]);
    }

    #[test]
    fn fuzz_fault() {
        let lines = [
            "loss=30% to=n3 for=60s",
            "cut with=all for=2m",
            "delay=50ms from=n2 for=1500ms",
            "disk=slow:50ms for=5s",
        ];
        let shapes = hydfs_fuzz::Target::new(env!("CARGO_MANIFEST_DIR"), "fault")
            .seeds(lines)
            .run(|bytes| match std::str::from_utf8(bytes) {
                Ok(line) => hydfs_fuzz::seen(&parse(line, knows)),
                Err(_) => String::new(),
            });
        assert!(shapes > 20, "{shapes}");
    }
}
