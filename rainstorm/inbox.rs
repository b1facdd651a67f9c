//! The queue in front of a task: one channel per feeding task, in order of seq whatever order pushes arrive in,
//! bounded, and aligned at barriers: a channel that has passed the barrier waits for the others.
//!
//! Aligned barriers are those of Chandy and Lamport as Flink uses them (Carbone et al., 2015).

use crate::batch::Batch;
use crate::event_time::EventMark;
use crate::message::TaskId;
use crate::plan::NodeId;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What comes in.
#[derive(Debug, Clone)]
pub enum Item {
    Lines(Batch),
    /// Everything before it belongs to the job epoch that it ends; `last`: the channel ends with it; `mark`: no
    /// line older than that is to be expected behind it.
    Barrier {
        id: u64,
        last: bool,
        mark: EventMark,
    },
}

/// Whether an item was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Now or earlier.
    Taken,
    Full,
    /// No such channel.
    Stranger,
}

#[derive(Debug)]
struct Channel {
    /// Seq of the next item to hand out.
    next: u64,
    items: BTreeMap<u64, Item>,
    /// The barrier that it has passed and the others have not.
    passed: Option<u64>,
    /// Its event watermark at the last barrier.
    mark: EventMark,
    ended: bool,
}

#[derive(Debug)]
struct State {
    channels: BTreeMap<TaskId, Channel>,
    /// Where to look first: no channel starves another.
    turn: usize,
}

/// The queue.
#[derive(Debug)]
pub struct Inbox {
    state: Mutex<State>,
    window: u64,
    arrived: Notify,
    freed: Notify,
}

/// Most items of one channel that wait in an inbox of `channels` channels: bounds memory, not throughput.
pub fn window(channels: usize) -> u64 {
    (64 / channels.max(1) as u64).clamp(2, 8)
}

impl Inbox {
    /// An inbox fed by tasks, each with whether it has ended in an earlier attempt.
    pub fn new(feeders: impl IntoIterator<Item = (TaskId, bool)>) -> Self {
        let channel = |(id, ended)| {
            (
                id,
                Channel {
                    next: 0,
                    items: BTreeMap::new(),
                    passed: None,
                    mark: EventMark::NONE,
                    ended,
                },
            )
        };
        let channels: BTreeMap<TaskId, Channel> = feeders.into_iter().map(channel).collect();
        let window = window(channels.len());
        let state = Mutex::new(State { channels, turn: 0 });
        Self {
            state,
            window,
            arrived: Notify::new(),
            freed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an item if its channel has room. Seqs begin at 0; one taken before is answered `Taken` again.
    pub fn offer(&self, from: TaskId, seq: u64, item: &Item) -> Offer {
        let mut state = self.lock();
        let Some(channel) = state.channels.get_mut(&from) else {
            return Offer::Stranger;
        };
        if seq < channel.next || channel.items.contains_key(&seq) {
            return Offer::Taken;
        }
        if seq >= channel.next + self.window {
            return Offer::Full;
        }
        channel.items.insert(seq, item.clone());
        drop(state);
        self.arrived.notify_one();
        Offer::Taken
    }

    /// As `offer`, but waits for room. Dropping the future leaves no trace, or the item taken.
    pub async fn put(&self, from: TaskId, seq: u64, item: Item) -> Offer {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.offer(from, seq, &item) {
                Offer::Full => freed.await,
                other => return other,
            }
        }
    }

    /// The next lines and the node that they come from, or the barrier once every channel has come to it, with the
    /// least event watermark; `last` when all have ended. An error if two channels disagree on the barrier.
    pub async fn next(&self) -> Result<(NodeId, Item), String> {
        loop {
            let arrived = self.arrived.notified();
            if let Some(item) = self.pop()? {
                return Ok(item);
            }
            arrived.await;
        }
    }

    fn pop(&self) -> Result<Option<(NodeId, Item)>, String> {
        let mut state = self.lock();
        let count = state.channels.len();
        let turn = state.turn;
        let order: Vec<TaskId> = state
            .channels
            .keys()
            .copied()
            .cycle()
            .skip(turn)
            .take(count)
            .collect();
        let mut freed = false;
        let mut found = None;
        for from in order {
            let Some(channel) = state.channels.get_mut(&from) else {
                continue;
            };
            if channel.passed.is_some() || channel.ended {
                continue;
            }
            let Some(item) = channel.items.remove(&channel.next) else {
                continue;
            };
            channel.next += 1;
            freed = true;
            match item {
                Item::Barrier { id, last, mark } => {
                    channel.passed = Some(id);
                    channel.mark = mark;
                    channel.ended = last;
                }
                lines => {
                    state.turn = (turn + 1) % count;
                    found = Some((from.node, lines));
                    break;
                }
            }
        }
        if found.is_none() {
            found = aligned(&mut state)?.map(|barrier| (NodeId::MAX, barrier));
        }
        drop(state);
        if freed {
            self.freed.notify_waiters();
        }
        Ok(found)
    }
}

/// The barrier, if all channels have passed it.
fn aligned(state: &mut State) -> Result<Option<Item>, String> {
    let mut barrier = None;
    for channel in state.channels.values() {
        match (channel.passed, barrier) {
            (None, _) if channel.ended => {}
            (None, _) => return Ok(None),
            (Some(id), None) => barrier = Some(id),
            (Some(id), Some(other)) if id == other => {}
            (Some(id), Some(other)) => return Err(format!("barriers {id} and {other} meet")),
        }
    }
    let Some(id) = barrier else { return Ok(None) };
    state
        .channels
        .values_mut()
        .for_each(|channel| channel.passed = None);
    let last = state.channels.values().all(|channel| channel.ended);
    let open = state.channels.values().filter(|channel| !channel.ended);
    let mark = EventMark::of_all(open.map(|channel| channel.mark));
    Ok(Some(Item::Barrier { id, last, mark }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::time::Duration;

    fn task(task: u32) -> TaskId {
        TaskId { node: 0, task }
    }

    fn lines(text: &'static str) -> Item {
        Item::Lines(Batch::from_lines(Bytes::from_static(text.as_bytes())))
    }

    fn barrier(id: u64, last: bool, mark: EventMark) -> Item {
        Item::Barrier { id, last, mark }
    }

    fn text((_, item): (NodeId, Item)) -> String {
        match item {
            Item::Lines(batch) => String::from_utf8(batch.bytes().to_vec()).unwrap(),
            Item::Barrier { id, last, mark } => format!("barrier {id} {last} {mark:?}"),
        }
    }

    #[tokio::test]
    async fn orders_by_seq_and_takes_each_once() {
        let inbox = Inbox::new([(task(0), false)]);
        assert_eq!(inbox.offer(task(0), 1, &lines("b")), Offer::Taken);
        assert_eq!(inbox.offer(task(0), 0, &lines("a")), Offer::Taken);
        assert_eq!(inbox.offer(task(0), 1, &lines("twice")), Offer::Taken);
        assert_eq!(inbox.offer(task(0), 8, &lines("far")), Offer::Full);
        assert_eq!(inbox.offer(task(7), 0, &lines("who")), Offer::Stranger);
        assert_eq!(text(inbox.next().await.unwrap()), "a");
        assert_eq!(text(inbox.next().await.unwrap()), "b");
        assert_eq!(inbox.offer(task(0), 0, &lines("late")), Offer::Taken);
        assert!(inbox.pop().unwrap().is_none());
    }

    #[tokio::test]
    async fn barriers_align() {
        let inbox = Inbox::new([(task(0), false), (task(1), false), (task(2), true)]);
        inbox.offer(task(0), 0, &barrier(1, true, EventMark::Live(0)));
        inbox.offer(task(1), 0, &lines("before"));
        assert_eq!(text(inbox.next().await.unwrap()), "before");
        assert!(inbox.pop().unwrap().is_none());
        inbox.offer(task(1), 1, &barrier(1, false, EventMark::Live(7)));
        assert_eq!(text(inbox.next().await.unwrap()), "barrier 1 false Live(7)");
        inbox.offer(task(1), 2, &barrier(2, true, EventMark::Live(9)));
        assert_eq!(
            text(inbox.next().await.unwrap()),
            "barrier 2 true Idle(-9223372036854775808)"
        );
    }

    #[tokio::test]
    async fn a_full_channel_holds_its_sender_back() {
        let inbox = std::sync::Arc::new(Inbox::new([(task(0), false)]));
        for seq in 0..8 {
            assert_eq!(inbox.offer(task(0), seq, &lines("x")), Offer::Taken);
        }
        let waiting = tokio::spawn({
            let inbox = inbox.clone();
            async move { inbox.put(task(0), 8, lines("y")).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        inbox.next().await.unwrap();
        assert_eq!(
            tokio::time::timeout(Duration::from_secs(5), waiting)
                .await
                .unwrap()
                .unwrap(),
            Offer::Taken
        );
    }
}
