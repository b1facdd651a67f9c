//! Users who create, rename, look up and unlink a few names in one directory, all of them the same ones, and the judge of
//! what they saw: the directory is linearizable, and no inode is issued twice.

use crate::{
    history::{Finding, History, Object},
    kernel::{Ask, Kernel, call},
};
use hydfs_mount::{Answer, FsError, How, Request};
use hydfs_types::{Ino, ROOT_INO};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep;

const NAMES: [&[u8]; 5] = [b"name0", b"name1", b"name2", b"name3", b"name4"];
/// A user who was answered with an error comes back after this.
const AGAIN: Duration = Duration::from_millis(500);

/// Index of a name.
type Name = usize;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    Known(Ino),
    /// Made by the call of this number, whose answer was lost.
    MadeBy(u64),
}

/// A call with its answer; `None` where that is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Made this inode, or the name was there.
    Create(Name, Option<Result<Ino, ()>>),
    /// The name went, or was not there.
    Unlink(Name, Option<bool>),
    /// The first became the second, or was not there.
    Rename(Name, Name, Option<bool>),
    Lookup(Name, Option<Ino>),
}

/// The directory.
struct Directory;

impl Object for Directory {
    type State = [Option<Thing>; NAMES.len()];
    type Call = Call;

    fn after(&self, number: u64, state: &Self::State, call: &Call) -> Option<Self::State> {
        let mut next = *state;
        let absent = |name: Name| state[name].is_none().then_some(*state);
        match *call {
            Call::Create(name, Some(Err(()))) => return state[name].map(|_| next),
            Call::Create(name, made) => {
                let thing = made.and_then(Result::ok).map(Thing::Known);
                let old = next[name].replace(thing.unwrap_or(Thing::MadeBy(number)));
                return old.is_none().then_some(next);
            }
            Call::Unlink(name, Some(false)) => return absent(name),
            Call::Unlink(name, _) => {
                next[name].take()?;
            }
            Call::Rename(name, _, Some(false)) => return absent(name),
            Call::Rename(name, to, _) => {
                let thing = next[name].take()?;
                next[to] = Some(thing);
            }
            Call::Lookup(name, None) => return absent(name),
            Call::Lookup(name, Some(ino)) => match state[name]? {
                Thing::Known(known) => return (known == ino).then_some(next),
                Thing::MadeBy(_) => next[name] = Some(Thing::Known(ino)),
            },
        }
        Some(next)
    }
}

#[derive(Default)]
struct Log {
    history: History<Call>,
    made: BTreeMap<Ino, u64>,
    twice: Vec<Ino>,
}

/// What all users of the names did.
#[derive(Clone, Default)]
pub struct Names(Arc<Mutex<Log>>);

impl Names {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.log().history.len() as u64
    }

    /// What was found wrong, and whether everything was judged.
    pub fn judge(&self) -> (Vec<String>, bool) {
        let log = self.log();
        let mut wrong: Vec<String> = log
            .twice
            .iter()
            .map(|ino| format!("I11: inode {ino} was issued twice"))
            .collect();
        let finding = log.history.check(&Directory);
        let judged = finding != Finding::GivenUp;
        if let Finding::Broken(why) = finding {
            wrong.push(format!("names are not linearizable: {why}"));
        }
        (wrong, judged)
    }

    async fn one(&self, mount: &dyn Ask, rng: &mut SmallRng) -> Result<(), FsError> {
        let (name, other) = (
            rng.random_range(0..NAMES.len()),
            rng.random_range(0..NAMES.len()),
        );
        let begun = match rng.random_range(0..10) {
            0..3 => Call::Create(name, None),
            3..5 => Call::Unlink(name, None),
            5..7 if name != other => Call::Rename(name, other, None),
            _ => Call::Lookup(name, None),
        };
        let number = self.log().history.begin(begun);
        let answer = ask(mount, begun).await;
        let mut log = self.log();
        match answer {
            Ok(call) => {
                if let Call::Create(_, Some(Ok(ino))) = call
                    && log.made.insert(ino, number).is_some()
                {
                    log.twice.push(ino);
                }
                log.history.end(number, call);
                Ok(())
            }
            Err(error) => {
                if matches!(begun, Call::Lookup(..)) {
                    log.history.forget(number);
                }
                Err(error)
            }
        }
    }
}

async fn ask(mount: &dyn Ask, begun: Call) -> Result<Call, FsError> {
    let name = |at: Name| NAMES[at].to_vec();
    match begun {
        Call::Create(at, _) => {
            let how = How {
                write: true,
                exclusive: true,
                ..How::default()
            };
            let request = Request::Create {
                parent: ROOT_INO,
                name: name(at),
                mode: 0o644,
                umask: 0,
                how,
            };
            match call(mount, request).await {
                Ok(Answer::Created(attr, opened)) => {
                    let (ino, handle) = (attr.ino, opened.handle);
                    call(mount, Request::Release { ino, handle }).await.ok();
                    Ok(Call::Create(at, Some(Ok(ino))))
                }
                Ok(other) => Err(FsError::Invalid(format!("unexpected answer {other:?}"))),
                Err(FsError::Exists) => Ok(Call::Create(at, Some(Err(())))),
                Err(error) => Err(error),
            }
        }
        Call::Unlink(at, _) => {
            let request = Request::Unlink {
                parent: ROOT_INO,
                name: name(at),
            };
            let there = was_there(call(mount, request).await)?;
            Ok(Call::Unlink(at, Some(there)))
        }
        Call::Rename(at, to, _) => {
            let request = Request::Rename {
                parent: ROOT_INO,
                name: name(at),
                to_parent: ROOT_INO,
                to_name: name(to),
                no_replace: false,
                exchange: false,
            };
            let there = was_there(call(mount, request).await)?;
            Ok(Call::Rename(at, to, Some(there)))
        }
        Call::Lookup(at, _) => {
            let request = Request::Lookup {
                parent: ROOT_INO,
                name: name(at),
            };
            match call(mount, request).await {
                Ok(Answer::Attr(attr)) => Ok(Call::Lookup(at, Some(attr.ino))),
                Ok(other) => Err(FsError::Invalid(format!("unexpected answer {other:?}"))),
                Err(FsError::NotFound) => Ok(Call::Lookup(at, None)),
                Err(error) => Err(error),
            }
        }
    }
}

fn was_there(answer: Result<Answer, FsError>) -> Result<bool, FsError> {
    match answer {
        Ok(_) => Ok(true),
        Err(FsError::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Uses the names until told to stop.
pub async fn use_names(
    mount: Arc<Kernel>,
    names: Names,
    pause_millis: u64,
    seed: u64,
    stop: Arc<AtomicBool>,
) {
    let mut rng = SmallRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(rng.random_range(0..=pause_millis))).await;
        if let Err(error) = names.one(&*mount, &mut rng).await {
            tracing::debug!(%error, "a call on a name failed");
            sleep(AGAIN).await;
        }
    }
}
