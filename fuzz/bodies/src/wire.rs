//! The two decoders of the wire: what they take they can write, and read again as it was.

use fieldpost_wire::{Command, Report, limits, peek_tag};

use crate::hub::Centre;

/// A body that comes to an agent.
pub fn command(data: &[u8]) {
    let Ok(command) = Command::decode(data) else { return };
    // An integer may have been written longer than it need be, never the other way round.
    let mut buffer = vec![0; limits::BODY.max(data.len())];
    let again = command.encode(&mut buffer).expect("what was decoded is within its bounds");
    assert!(again.len() <= data.len(), "it grew");
    assert_eq!(Command::decode(again), Ok(command));
}

/// A body that comes to a hub, from a node it knows and from a stranger.
pub fn report(data: &[u8]) {
    let tag = peek_tag(data);
    let mut waits = false;
    if let Ok((decoded, report)) = Report::decode(data) {
        // A result is acked with the last of its chunks, which do not come here.
        waits = matches!(report, Report::Finished(f) if f.chunks > 0 && !f.output_dropped);
        assert_eq!(tag, Ok(decoded), "both see the same tag");
        let mut buffer = vec![0; limits::BODY.max(data.len())];
        let again = report.encode(decoded, &mut buffer).expect("it is within its bounds");
        assert!(again.len() <= data.len(), "it grew");
        // Not compared by `==`: a report may hold a float that is not a number.
        let (tag, report_again) = Report::decode(again).expect("it was encoded by us");
        assert_eq!((tag, format!("{report_again:?}")), (decoded, format!("{report:?}")));
    }
    let mut centre = Centre::new();
    centre.report(Centre::NODE_KEY, data);
    centre.report(Centre::STRANGER_KEY, data);
    if let Ok(Some(tag)) = tag {
        assert!(
            waits || centre.has_acked(tag),
            "a reliable report that is not acked comes for ever"
        );
    }
}
