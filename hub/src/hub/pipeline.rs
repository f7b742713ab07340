//! The way of batches to the store: one is filled while another is committed.

use fieldpost_wire::Tag;

use super::Moment;
use super::outputs::Stored;
use crate::store::{AckRange, Batch, Change, NodeId, Query, StoreError};

/// How soon a failed commit is tried again, in milliseconds.
pub const RETRY_MS: u64 = 1_000;

/// How long a batch without a result waits for one, in milliseconds of a clock that is read
/// rounded down. What a quick job says of itself comes within that time, and goes into the same
/// commit as its trigger: one fsync less, and none in the way of the job.
const PATIENCE_MS: u64 = 2;

/// Batches and who waits for them. `A` says what to do with an answer, `R` is a reply that
/// follows the commit.
#[derive(Debug)]
pub struct Pipeline<A, R> {
    /// The batch that is being filled.
    pub batch: Box<Batch>,
    asks: Vec<A>,
    replies: Vec<R>,
    flying: Option<Flying<A, R>>,
    retry: Option<(Box<Batch>, Moment)>,
    spare: Option<Box<Batch>>,
    /// Until when the batch that is being filled waits for a result.
    patience: Option<Moment>,
    /// Why the store fails, while it does.
    pub failing: Option<String>,
    /// Batches committed.
    pub commits: u64,
}

/// Who waits for a batch that is with the store.
#[derive(Debug)]
struct Flying<A, R> {
    asks: Vec<A>,
    replies: Vec<R>,
}

/// What a committed batch lets go.
#[derive(Debug)]
pub struct Landed<A, R> {
    /// What to do with each answer.
    pub asks: Vec<A>,
    /// Replies to send.
    pub replies: Vec<R>,
    /// Reports to ack; give the list back with [`Pipeline::recycle`].
    pub acks: Vec<AckRange>,
    batch: Box<Batch>,
}

impl<A, R> Landed<A, R> {
    /// The batch.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }
}

impl<A, R> Pipeline<A, R> {
    /// Nothing is under way.
    pub fn new() -> Self {
        let mut batch = Box::<Batch>::default();
        batch.reuse(1);
        Self {
            batch,
            asks: Vec::new(),
            replies: Vec::new(),
            flying: None,
            retry: None,
            spare: Some(Box::default()),
            patience: None,
            failing: None,
            commits: 0,
        }
    }

    /// Makes a change durable.
    pub fn change(&mut self, change: Change) {
        self.batch.change(change);
    }

    /// Asks the store; `then` says what to do with the answer.
    pub fn ask(&mut self, query: Query, then: A) {
        self.batch.ask(query);
        self.asks.push(then);
    }

    /// Sends a reply once the batch that is being filled is committed.
    pub fn reply_after(&mut self, reply: R) {
        self.replies.push(reply);
    }

    /// Acks a report once the batch that is being filled is committed.
    pub fn ack_after(&mut self, node: NodeId, slot: &mut (u64, usize), tag: Tag) {
        let number = self.batch.number();
        let known = (slot.0 == number).then_some(slot.1);
        *slot = (number, self.batch.ack(node, tag, known));
    }

    /// Whether another report fits.
    pub fn has_room(&self) -> bool {
        !self.batch.is_full()
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.batch.is_empty()
            && self.replies.is_empty()
            && self.flying.is_none()
            && self.retry.is_none()
    }

    /// When there will be a batch to take, if that is a matter of time.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.retry.as_ref().map(|(_, at)| *at).or(self.patience)
    }

    /// The next batch for the store.
    pub fn take(&mut self, now: Moment) -> Option<Box<Batch>> {
        if self.flying.is_some() {
            return None;
        }
        if let Some((batch, at)) = self.retry.take() {
            if now < at {
                self.retry = Some((batch, at));
                return None;
            }
            self.flying = Some(Flying { asks: Vec::new(), replies: Vec::new() });
            return Some(batch);
        }
        if self.batch.is_empty() && self.replies.is_empty() {
            return None;
        }
        if self.batch.records().is_empty() && self.batch.queries().is_empty() {
            let until = *self.patience.get_or_insert(now.plus_ms(PATIENCE_MS));
            if now < until {
                return None;
            }
        }
        self.patience = None;
        let mut next = self.spare.take().unwrap_or_default();
        next.reuse(self.batch.number() + 1);
        let (asks, replies) = (std::mem::take(&mut self.asks), std::mem::take(&mut self.replies));
        self.flying = Some(Flying { asks, replies });
        Some(std::mem::replace(&mut self.batch, next))
    }

    /// The store committed it.
    pub fn landed(&mut self, mut batch: Box<Batch>) -> Landed<A, R> {
        self.failing = None;
        self.commits += 1;
        let acks = batch.take_acks();
        let (asks, replies) = match self.flying.take() {
            Some(flying) => (flying.asks, flying.replies),
            None => (Vec::new(), Vec::new()),
        };
        Landed { asks, replies, acks, batch }
    }

    /// Memory is used again.
    pub fn recycle(&mut self, landed: Landed<A, R>) {
        let mut batch = landed.batch;
        batch.return_acks(landed.acks);
        self.spare = Some(batch);
    }

    /// The store could not commit it: it is tried again later. Gives who is to be told.
    pub fn failed(
        &mut self,
        mut batch: Box<Batch>,
        error: &StoreError,
        now: Moment,
    ) -> (Vec<A>, Vec<R>) {
        self.failing = Some(error.to_string());
        batch.drop_queries();
        self.retry = Some((batch, now.plus_ms(RETRY_MS)));
        match self.flying.take() {
            Some(flying) => (flying.asks, flying.replies),
            None => (Vec::new(), Vec::new()),
        }
    }

    /// Who waits for the batch that is being filled is not to wait any longer.
    pub fn give_up_waiting(&mut self) -> (Vec<A>, Vec<R>) {
        self.batch.drop_queries();
        (std::mem::take(&mut self.asks), std::mem::take(&mut self.replies))
    }
}

/// A client, and the request that is to be answered.
#[derive(Debug, Clone)]
pub struct ReplyTo {
    /// On which ROUTER.
    pub side: super::Side,
    /// Its routing id.
    pub peer: Box<[u8]>,
    /// The request's id, as JSON.
    pub id: Box<str>,
}

/// A reply that is ready.
#[derive(Debug)]
pub struct Ready {
    /// To whom.
    pub to: ReplyTo,
    /// What.
    pub json: Vec<u8>,
}

impl Ready {
    /// Sends it.
    pub fn send(&self, outputs: &mut super::outputs::Outputs) {
        let json: Stored = outputs.store(&self.json);
        outputs.reply(self.to.side, &self.to.peer, &json);
    }
}
