//! Jobs: what a node can do. An allow-list that only the node's own configuration fills.
//!
//! A trigger or a schedule entry names a job and gives it arguments; it never carries a command
//! line. Arguments match their pattern in full, and reach the program as the argv elements that
//! name them and as `FIELDPOST_ARG_<NAME>`, never through a shell.
//!
//! ```
//! use fieldpost_agent::job::{ArgSpec, Pattern, Template};
//! let bus = ArgSpec {
//!     name: "bus".parse().unwrap(),
//!     pattern: Pattern::new("[0-3]").unwrap(),
//!     default: Some("0".into()),
//! };
//! assert!(bus.check("2").is_ok());
//! assert!(bus.check("22").is_err());
//! assert!(Template::parse("/dev/bus{bus}", std::slice::from_ref(&bus)).is_ok());
//! assert!(Template::parse("{baud}", std::slice::from_ref(&bus)).is_err());
//! ```

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use fieldpost_wire::{Name, Overlap, limits};

/// One job of the configuration.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its name.
    pub name: Name,
    /// What it does.
    pub kind: Kind,
    /// The arguments it takes; at most 8.
    pub args: Vec<ArgSpec>,
    /// How long it may run. Time in which back-pressure stopped its output does not count.
    pub timeout: Duration,
    /// How many bytes of output are kept; the rest is read and thrown away.
    pub max_output: u64,
    /// How many runs of it may be in progress at once; at least 1.
    pub concurrency: usize,
    /// What happens to a triggered run that finds the job at that limit. (A scheduled one has its
    /// entry's own.)
    pub overlap: Overlap,
    /// What the hub does with a run that an agent's restart cut short.
    pub on_restart: OnRestart,
    /// Whether its results are spooled even beyond the daily budget of bytes to write.
    pub durable: bool,
}

/// What a job does.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Runs a program.
    Command(Program),
    /// Built in: cpu, memory, disks, temperatures, network counters, as JSON.
    System,
    /// Built in: the lines of a file that are new since last time.
    File {
        /// Which file.
        path: PathBuf,
    },
    /// Built in: nothing. It ends at once, well and without output: for measuring the path.
    Ping,
}

/// A program and how it is started.
#[derive(Debug, Clone)]
pub struct Program {
    /// The absolute path of the program, then its arguments.
    pub argv: Vec<Template>,
    /// Its environment, beyond what every program gets.
    pub env: Vec<(String, String)>,
    /// Its working directory; `/` if none.
    pub cwd: Option<PathBuf>,
    /// Most memory that each of its processes may have for data, in bytes.
    pub memory: Option<u64>,
}

/// What the hub does with a run that an agent's restart cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnRestart {
    /// It stays `lost`.
    #[default]
    Lost,
    /// It is run again, as the next attempt.
    Rerun,
}

impl Job {
    /// Checks `pairs` against the job's arguments and fills in the defaults.
    ///
    /// # Errors
    /// [`BadArgument`] with the first thing wrong.
    pub fn check<'v>(
        &self,
        pairs: impl Iterator<Item = (&'v str, &'v str)>,
    ) -> Result<Args, BadArgument> {
        let mut given: heapless::Vec<Option<&str>, { limits::ARGS }> = heapless::Vec::new();
        given
            .resize(self.args.len().min(limits::ARGS), None)
            .expect("not longer than its capacity");
        for (name, value) in pairs {
            let known = self.args.iter().position(|spec| &*spec.name == name);
            let place = known
                .and_then(|index| given.get_mut(index))
                .ok_or_else(|| BadArgument::new(name, Wrong::Unknown))?;
            if place.replace(value).is_some() {
                return Err(BadArgument::new(name, Wrong::Twice));
            }
        }
        let mut args = Args::default();
        for (spec, given) in self.args.iter().zip(given) {
            let value = match given {
                Some(value) => {
                    spec.check(value).map_err(|wrong| BadArgument::new(&spec.name, wrong))?;
                    value
                }
                None => spec
                    .default
                    .as_deref()
                    .ok_or_else(|| BadArgument::new(&spec.name, Wrong::Missing))?,
            };
            args.push(value);
        }
        Ok(args)
    }

    /// Whether its runs are programs: processes of their own, with output to be streamed.
    #[must_use]
    pub fn is_program(&self) -> bool {
        matches!(self.kind, Kind::Command(_))
    }
}

/// One argument that a job takes.
#[derive(Debug, Clone)]
pub struct ArgSpec {
    /// Its name.
    pub name: Name,
    /// What its values must match, in full.
    pub pattern: Pattern,
    /// Its value where none is given; without one the argument is required.
    pub default: Option<String>,
}

impl ArgSpec {
    /// Whether `value` may be passed: at most 256 B, no NUL or control characters, no leading `-`
    /// unless the pattern says so, and the pattern matches all of it.
    ///
    /// # Errors
    /// What is [`Wrong`] with it.
    pub fn check(&self, value: &str) -> Result<(), Wrong> {
        if value.len() > limits::ARG_VALUE {
            return Err(Wrong::Long(value.len()));
        }
        if value.chars().any(char::is_control) {
            return Err(Wrong::Control);
        }
        if value.starts_with('-') && !self.pattern.allows_dash() {
            return Err(Wrong::Dash);
        }
        if !self.pattern.matches(value) {
            return Err(Wrong::Mismatch(self.pattern.text().into()));
        }
        Ok(())
    }
}

/// A regular expression that a value must match from its first to its last byte.
#[derive(Debug, Clone)]
pub struct Pattern {
    regex: regex_lite::Regex,
    text: Box<str>,
}

impl Pattern {
    /// The pattern that `text` writes.
    ///
    /// # Errors
    /// What the regular expression's parser says.
    pub fn new(text: &str) -> Result<Self, regex_lite::Error> {
        // Parsed alone first: `a)|(b` must not become valid by the group around it.
        regex_lite::Regex::new(text)?;
        let regex = regex_lite::Regex::new(&format!(r"\A(?:{text})\z"))?;
        Ok(Self { regex, text: text.into() })
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    fn matches(&self, value: &str) -> bool {
        self.regex.is_match(value)
    }

    /// Whether the pattern says that a value may begin with `-`: it is written with one first,
    /// alone or as the first member of a class.
    fn allows_dash(&self) -> bool {
        let first = self.text.trim_start_matches(['(', '^']).trim_start_matches("?:");
        ["-", r"\-", "[-", r"[\-"].iter().any(|dash| first.starts_with(dash))
    }
}

/// What is wrong with an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// The job takes none of this name.
    Unknown,
    /// It was given twice.
    Twice,
    /// It was not given and has no default.
    Missing,
    /// It has so many bytes.
    Long(usize),
    /// It contains a NUL or a control character.
    Control,
    /// It begins with `-`, which its pattern does not say.
    Dash,
    /// It does not match this pattern in full.
    Mismatch(Box<str>),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the job takes no argument of this name"),
            Self::Twice => f.write_str("given twice"),
            Self::Missing => f.write_str("required, and not given"),
            Self::Long(n) => write!(f, "has {n} bytes; at most {} are allowed", limits::ARG_VALUE),
            Self::Control => f.write_str("contains a NUL or a control character"),
            Self::Dash => f.write_str("begins with '-', which its pattern does not say"),
            Self::Mismatch(pattern) => write!(f, "does not match {pattern} in full"),
        }
    }
}

/// An argument that a job does not take as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadArgument {
    name: Box<str>,
    wrong: Wrong,
}

impl BadArgument {
    fn new(name: &str, wrong: Wrong) -> Self {
        Self { name: name.into(), wrong }
    }
}

impl fmt::Display for BadArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "argument {:?}: {}", self.name, self.wrong)
    }
}

impl std::error::Error for BadArgument {}

/// The checked arguments of one run: a value for each of the job's [`ArgSpec`]s, in their order.
/// Without arguments it allocates nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    text: String,
    ends: heapless::Vec<u16, { limits::ARGS }>,
}

impl Args {
    fn push(&mut self, value: &str) {
        self.text.push_str(value);
        let end = u16::try_from(self.text.len()).expect("8 values of 256 B at the most");
        self.ends.push(end).expect("a job has at most 8 arguments: Config checks it");
    }

    /// The value of the job's argument number `index`.
    #[must_use]
    pub fn value(&self, index: usize) -> Option<&str> {
        let end = usize::from(*self.ends.get(index)?);
        let start = match index {
            0 => 0,
            after => usize::from(self.ends[after - 1]),
        };
        self.text.get(start..end)
    }

    /// The values, in the order of the job's arguments.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        (0..self.ends.len()).filter_map(|index| self.value(index))
    }
}

/// One element of an argv: text with `{name}` where an argument's value goes. `{{` and `}}` stand
/// for single braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Arg(usize),
}

impl Template {
    /// Reads `text`, in which only `args` may be named.
    ///
    /// # Errors
    /// [`BadTemplate`] with the first thing wrong.
    pub fn parse(text: &str, args: &[ArgSpec]) -> Result<Self, BadTemplate> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            let after = &rest[at + 1..];
            if let Some(doubled) = after.strip_prefix(brace) {
                plain.push_str(brace);
                rest = doubled;
                continue;
            }
            if brace == "}" {
                return Err(BadTemplate::Unopened);
            }
            let (name, after) = after.split_once('}').ok_or(BadTemplate::Unclosed)?;
            let index = args
                .iter()
                .position(|arg| &*arg.name == name)
                .ok_or_else(|| BadTemplate::Unknown(name.into()))?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Arg(index));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() || parts.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// The text with the values of `args` in their places.
    #[must_use]
    pub fn fill(&self, args: &Args) -> String {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text,
                Part::Arg(index) => args.value(*index).unwrap_or_default(),
            })
            .collect()
    }

    /// The text, if it names no argument: a program's path must not depend on one.
    #[must_use]
    pub fn fixed(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

/// Why a text is not a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadTemplate {
    /// A `{` without its `}`.
    Unclosed,
    /// A `}` without its `{`.
    Unopened,
    /// It names an argument that the job does not take.
    Unknown(String),
}

impl fmt::Display for BadTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclosed => f.write_str("has a '{' without '}'; write '{{' for a brace"),
            Self::Unopened => f.write_str("has a '}' without '{'; write '}}' for a brace"),
            Self::Unknown(name) => write!(f, "names {{{name}}}, which args does not define"),
        }
    }
}

impl std::error::Error for BadTemplate {}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A job without arguments, for tests of other modules.
    pub(crate) fn job(name: &str, kind: Kind) -> Job {
        Job {
            name: name.parse().unwrap(),
            kind,
            args: Vec::new(),
            timeout: Duration::from_secs(20),
            max_output: 1 << 20,
            concurrency: 1,
            overlap: Overlap::Queue,
            on_restart: OnRestart::Lost,
            durable: false,
        }
    }

    /// `/bin/<name>` as a job.
    pub(crate) fn program(name: &str) -> Job {
        let argv = vec![Template::parse(&format!("/bin/{name}"), &[]).unwrap()];
        job(name, Kind::Command(Program { argv, env: Vec::new(), cwd: None, memory: None }))
    }

    fn spec(name: &str, pattern: &str, default: Option<&str>) -> ArgSpec {
        ArgSpec {
            name: name.parse().unwrap(),
            pattern: Pattern::new(pattern).unwrap(),
            default: default.map(Into::into),
        }
    }

    #[test]
    fn a_pattern_matches_in_full() {
        let arg = spec("a", "x|yz", None);
        assert!(arg.check("x").is_ok());
        assert!(arg.check("yz").is_ok());
        for bad in ["xz", "ax", "yzx", "", "x\n"] {
            assert!(arg.check(bad).is_err(), "{bad:?}");
        }
        assert!(Pattern::new("a)|(b").is_err());
    }

    #[test]
    fn a_value_may_not_be_long_or_hold_controls() {
        let arg = spec("a", "(?s:.*)", None);
        assert!(arg.check(&"x".repeat(256)).is_ok());
        assert_eq!(arg.check(&"x".repeat(257)), Err(Wrong::Long(257)));
        for bad in ["a\0", "a\nb", "\x7f", "\u{85}"] {
            assert_eq!(arg.check(bad), Err(Wrong::Control), "{bad:?}");
        }
    }

    #[test]
    fn a_leading_dash_needs_a_pattern_that_says_so() {
        assert_eq!(spec("a", ".*", None).check("-rf"), Err(Wrong::Dash));
        assert_eq!(spec("a", "[a-z-]+", None).check("-rf"), Err(Wrong::Dash));
        for pattern in ["-[a-z]+", "-?[a-z]+", r"\-rf", "[-a-z]+", "(-rf|x)", "^-rf", "(?:-rf)"] {
            assert!(spec("a", pattern, None).check("-rf").is_ok(), "{pattern}");
        }
    }

    #[test]
    fn a_job_fills_in_defaults_and_refuses_what_it_does_not_take() {
        let mut job = program("read-meter");
        job.args = vec![spec("bus", "[0-3]", Some("0")), spec("unit", "[a-z]+", None)];
        let args = job.check([("unit", "kwh")].into_iter()).unwrap();
        assert_eq!(args.values().collect::<Vec<_>>(), ["0", "kwh"]);
        let text = |pairs: &[(&'static str, &'static str)]| {
            job.check(pairs.iter().copied()).unwrap_err().to_string()
        };
        assert_eq!(text(&[]), "argument \"unit\": required, and not given");
        assert_eq!(text(&[("x", "1")]), "argument \"x\": the job takes no argument of this name");
        assert_eq!(text(&[("unit", "a"), ("unit", "b")]), "argument \"unit\": given twice");
        assert_eq!(
            text(&[("unit", "a"), ("bus", "7")]),
            "argument \"bus\": does not match [0-3] in full"
        );
    }

    #[test]
    fn a_template_puts_values_where_they_are_named() {
        let mut job = program("x");
        job.args = vec![spec("a", ".*", None), spec("b", ".*", None)];
        let args = job.check([("a", "1"), ("b", "two words")].into_iter()).unwrap();
        let filled = |text: &str| Template::parse(text, &job.args).map(|t| t.fill(&args));
        assert_eq!(filled("{b}-{a}{a}").unwrap(), "two words-11");
        assert_eq!(filled("{{{a}}}").unwrap(), "{1}");
        assert_eq!(filled("").unwrap(), "");
        assert_eq!(filled("{a"), Err(BadTemplate::Unclosed));
        assert_eq!(filled("a}"), Err(BadTemplate::Unopened));
        assert_eq!(filled("{c}"), Err(BadTemplate::Unknown("c".into())));
        assert_eq!(Template::parse("/bin/x", &[]).unwrap().fixed(), Some("/bin/x"));
    }
}
