//! Events: written only where somebody listens, and but for one sent before what they tell is
//! durable.

use std::fmt::Write as _;

use fieldpost_wire::RunId;
use serde::Serialize;

use super::Side;
use super::outputs::Outputs;
use super::watches::Watches;

/// What an event is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// A run.
    pub run: Option<RunId>,
    /// A node.
    pub node: Option<&'a str>,
    /// A job.
    pub job: Option<&'a str>,
}

#[derive(Serialize)]
struct Event<'a, T> {
    event: &'a str,
    durable: bool,
    #[serde(flatten)]
    more: &'a T,
}

/// Sends an event to whoever listens to one of its topics, before what it tells is durable.
pub fn emit(
    outputs: &mut Outputs,
    watches: &Watches,
    about: About<'_>,
    event: &str,
    more: &impl Serialize,
) {
    send(outputs, watches, about, &Event { event, durable: false, more });
}

/// Sends an event that tells what is durable.
pub fn emit_durable(
    outputs: &mut Outputs,
    watches: &Watches,
    about: About<'_>,
    event: &str,
    more: &impl Serialize,
) {
    send(outputs, watches, about, &Event { event, durable: true, more });
}

fn send(outputs: &mut Outputs, watches: &Watches, about: About<'_>, event: &impl Serialize) {
    if !watches.any() {
        return;
    }
    let mut topic = heapless_topic();
    let mut json = None;
    for part in 0..3 {
        topic.clear();
        let written = match (part, about.run, about.node, about.job) {
            (0, Some(run), _, _) => write!(topic, "run/{run}/"),
            (1, _, Some(node), _) => write!(topic, "node/{node}/"),
            (2, _, _, Some(job)) => write!(topic, "job/{job}/"),
            _ => continue,
        };
        if written.is_err() {
            continue;
        }
        for side in [Side::Local, Side::Remote] {
            if !watches.has(side, topic.as_bytes()) {
                continue;
            }
            let json = json.get_or_insert_with(|| {
                outputs.write(|out| {
                    serde_json::to_writer(out, event).expect("our own types serialize");
                })
            });
            outputs.event(side, topic.as_bytes(), json);
        }
    }
}

/// Room for the longest topic: `node/`, a name, a slash.
fn heapless_topic() -> String {
    String::with_capacity(80)
}
