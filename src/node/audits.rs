//! Audits of jobs: whatever a job read and wrote is read again, which may take longer than anybody waits for an answer. So an
//! audit goes on by itself, and whoever wants to know asks again; one that nobody asks for any more ends.

use crate::streaming::of_job;
use futures_util::FutureExt;
use hydfs_control::{Audit, Error, Kind};
use hydfs_types::BoxFuture;
use rainstorm::{Audited, Far};
use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

/// Whoever asks waits this long for the end, then hears how far it is.
const ANSWER: Duration = Duration::from_secs(5);
/// So long after it was asked for last it ends.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Audits at once: each has some MiB in memory.
const AUDITS_MAX: usize = 4;

type Outcome = Option<Result<String, Error>>;

/// The audits that run on this member.
#[derive(Default)]
pub(crate) struct Audits {
    running: Mutex<BTreeMap<String, Arc<Running>>>,
}

struct Running {
    far: Arc<Far>,
    asked: Mutex<Instant>,
    outcome: watch::Sender<Outcome>,
}

impl Running {
    fn asked(&self) -> MutexGuard<'_, Instant> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn as_it_is(&self, outcome: Option<String>) -> Audit {
        let (epochs, of) = self.far.epochs();
        Audit {
            epochs,
            of,
            outcome,
        }
    }
}

impl Audits {
    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a job's audit, unless it runs, and waits a while for its outcome. An outcome is told once.
    pub async fn ask(
        self: &Arc<Self>,
        home: &Handle,
        name: &str,
        begin: impl FnOnce(Arc<Far>) -> BoxFuture<'static, rainstorm::Result<Audited>>,
    ) -> Result<Audit, Error> {
        let running = self.find(home, name, begin)?;
        let mut outcome = running.outcome.subscribe();
        let ended = timeout(ANSWER, outcome.wait_for(Option::is_some)).await;
        let Ok(Ok(outcome)) = ended else {
            return Ok(running.as_it_is(None));
        };
        self.remove(&running);
        Ok(running.as_it_is(outcome.clone().transpose()?))
    }

    fn remove(&self, running: &Arc<Running>) {
        self.running()
            .retain(|_, other| !Arc::ptr_eq(other, running));
    }

    fn find(
        self: &Arc<Self>,
        home: &Handle,
        name: &str,
        begin: impl FnOnce(Arc<Far>) -> BoxFuture<'static, rainstorm::Result<Audited>>,
    ) -> Result<Arc<Running>, Error> {
        let mut all = self.running();
        if let Some(running) = all.get(name) {
            *running.asked() = Instant::now();
            return Ok(running.clone());
        }
        if all.len() >= AUDITS_MAX {
            let names: Vec<_> = all.keys().map(String::as_str).collect();
            let names = names.join(", ");
            let why = format!(
                "{AUDITS_MAX} audits run on this member ({names}): wait for one, or ask another member"
            );
            return Err(Error::new(Kind::Busy, why));
        }
        let running = Arc::new(Running {
            far: Arc::default(),
            asked: Mutex::new(Instant::now()),
            outcome: watch::channel(None).0,
        });
        all.insert(name.to_owned(), running.clone());
        let (audits, here) = (Arc::downgrade(self), running.clone());
        let audit = AssertUnwindSafe(begin(running.far.clone())).catch_unwind();
        home.spawn(async move {
            tokio::select! {
                audited = audit => {
                    let broken = |why: String| Error::new(Kind::Io, format!("the audit broke off: {why}"));
                    let audited = match audited {
                        Ok(audited) => audited.map_err(|error| of_job(&error)).and_then(|audited| {
                            serde_json::to_string(&audited).map_err(|error| broken(error.to_string()))
                        }),
                        // Else whoever asks would wait for ever.
                        Err(_) => Err(broken("see the log of this member".into())),
                    };
                    here.outcome.send_replace(Some(audited));
                    // An outcome that nobody takes goes, too.
                    forgotten(audits, &here).await;
                }
                () = forgotten(audits.clone(), &here) => {}
            }
        });
        Ok(running)
    }
}

/// Removes an audit once nobody has asked for it in a while.
async fn forgotten(audits: Weak<Audits>, running: &Arc<Running>) {
    loop {
        let until = *running.asked() + FORGOTTEN;
        sleep_until(until).await;
        let Some(audits) = audits.upgrade() else {
            return;
        };
        let mut all = audits.running();
        if *running.asked() + FORGOTTEN <= Instant::now() {
            all.retain(|_, other| !Arc::ptr_eq(other, running));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An audit that takes so many seconds, and whether it is still there.
    fn audit(
        seconds: u64,
        alive: &Arc<()>,
    ) -> impl FnOnce(Arc<Far>) -> BoxFuture<'static, rainstorm::Result<Audited>> {
        let alive = alive.clone();
        move |_| {
            Box::pin(async move {
                let _alive = alive;
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok(Audited::default())
            })
        }
    }

    async fn ask(audits: &Arc<Audits>, name: &str, seconds: u64, alive: &Arc<()>) -> Audit {
        let begin = audit(seconds, alive);
        let asked = audits.ask(&Handle::current(), name, begin).await;
        asked.expect("it goes on or has ended well")
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_long_is_asked_for_again_and_told_once() {
        let (audits, alive) = (Arc::new(Audits::default()), Arc::new(()));
        for _ in 0..200 {
            assert_eq!(ask(&audits, "j", 1_002, &alive).await.outcome, None);
            assert_eq!(Arc::strong_count(&alive), 2, "there is one");
        }
        // Two ask at once, and both are told.
        let [one, other] = [0; 2].map(|_| ask(&audits, "j", 1_002, &alive));
        let (one, other) = tokio::join!(one, other);
        assert!(one.outcome.is_some() && one == other);
        assert_eq!(Arc::strong_count(&alive), 1);
        assert_eq!(ask(&audits, "j", 1_002, &alive).await.outcome, None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_nobody_asks_for_ends_and_makes_room() {
        let (audits, alive) = (Arc::new(Audits::default()), Arc::new(()));
        let names = ["a", "b", "c", "d"];
        for name in names {
            ask(&audits, name, 10_000, &alive).await;
        }
        let begin = audit(1, &alive);
        let more = audits.ask(&Handle::current(), "e", begin).await;
        assert_eq!(more.unwrap_err().kind, Kind::Busy);
        for _ in 0..20 {
            ask(&audits, "a", 10_000, &alive).await;
        }
        assert_eq!(Arc::strong_count(&alive), 2, "the others have ended");
        assert!(ask(&audits, "e", 1, &alive).await.outcome.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_panics_is_told_too() {
        let audits = Arc::new(Audits::default());
        let begin = |_| -> BoxFuture<'static, _> { Box::pin(async { panic!("a bug") }) };
        let told = audits.ask(&Handle::current(), "j", begin).await;
        assert!(told.unwrap_err().message.contains("broke off"));
        assert!(audits.running().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_hold_is_told() {
        let audits = Arc::new(Audits::default());
        let begin = |_| -> BoxFuture<'static, _> {
            Box::pin(async { Err(rainstorm::Error::Job("a line is missing".into())) })
        };
        let told = audits.ask(&Handle::current(), "j", begin).await;
        assert!(told.unwrap_err().message.contains("a line is missing"));
        assert!(audits.running().is_empty());
    }
}
