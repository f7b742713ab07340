//! When a report that the hub has not acked goes again.
//!
//! A connection keeps the order, so a report that was sent before one that is acked was passed over:
//! it went down with an earlier connection, or the hub can't use it yet. What was sent after that is
//! under way, however slow the link: as long as acks come it is waited for.

use std::time::Duration;

use fieldpost_wire::Report;

use crate::limits::{RESEND, RESEND_DOUBLINGS};

/// How far the hub's acks are. All times are of the boot clock, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Acks {
    /// When the last came.
    last_ms: u64,
    /// When the last sent of the reports that are acked was sent.
    last_sent_ms: u64,
}

impl Acks {
    /// An ack came.
    pub(crate) fn came(&mut self, now: Duration) {
        self.last_ms = millis(now);
    }

    /// It was for a report that was sent then. If that was not the first time, nobody knows which of the
    /// copies it was for.
    pub(crate) fn reached(&mut self, sent_ms: u64, again: u8) {
        if again == 0 {
            self.last_sent_ms = self.last_sent_ms.max(sent_ms);
        }
    }

    /// Whether the hub has acked what was sent after this.
    pub(crate) fn passed(&self, sent_ms: u64) -> bool {
        sent_ms < self.last_sent_ms
    }

    /// When a report goes again that was sent then, for the `again`th time after the first.
    pub(crate) fn due_ms(&self, sent_ms: u64, again: u8) -> u64 {
        let from = if self.passed(sent_ms) { sent_ms } else { sent_ms.max(self.last_ms) };
        from.saturating_add(millis(RESEND) << again.min(RESEND_DOUBLINGS))
    }
}

/// A run's end that the hub passed over so many times, while it acked what was sent later, waits there
/// for output that is lost, or that another hub has: power cuts, bad sectors and a hub that went back to a
/// backup tell nobody what they took.
const GIVE_UP: u8 = 3;

/// The same where nothing else is there to be acked: some 13 minutes. A hub whose disk is full acks
/// nothing either, and its output is not lost.
const GIVE_UP_ALONE: u8 = 12;

/// Whether a run's end that went again so often, and was passed over so often, is sent in vain: it had
/// output, and says of none that it was dropped.
pub(crate) fn in_vain(end: &[u8], again: u8, passed_over: u8) -> bool {
    (passed_over >= GIVE_UP || again >= GIVE_UP_ALONE)
        && matches!(Report::decode(end), Ok((_, Report::Finished(finished)))
            if finished.chunks > 0 && !finished.output_dropped)
}

/// Lets an encoded end of a run say that its output was dropped: that is the last field, one byte.
pub(crate) fn say_dropped(end: &mut [u8]) {
    if let Some(last) = end.last_mut() {
        *last = 1;
    }
}

/// Milliseconds of a time of the boot clock.
pub(crate) fn millis(boot: Duration) -> u64 {
    u64::try_from(boot.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_waited_for_while_acks_come() {
        let resend = millis(RESEND);
        let mut acks = Acks::default();
        assert_eq!(acks.due_ms(1_000, 0), 1_000 + resend);
        assert_eq!(acks.due_ms(1_000, 1), 1_000 + 2 * resend);
        assert_eq!(acks.due_ms(1_000, 200), 1_000 + (resend << RESEND_DOUBLINGS));
        acks.came(Duration::from_millis(9_000));
        acks.reached(500, 0);
        acks.reached(400, 0);
        acks.reached(600, 1);
        assert_eq!(acks.due_ms(499, 0), 499 + resend, "it was passed over");
        assert_eq!(acks.due_ms(500, 0), 9_000 + resend);
        assert_eq!(acks.due_ms(1_000, 0), 9_000 + resend);
        assert_eq!(acks.due_ms(u64::MAX, 0), u64::MAX);
    }
}
