//! Walks a TOML file key by key, and says where and what when something is wrong.
//!
//! Each key is taken once; what is left over at [`Section::finish`] is unknown, and the nearest
//! known key is offered. A [`Problem`] names file, line, key, value, what was expected and what
//! may help.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1, where there is one to point at.
    pub line: Option<usize>,
    /// What is wrong: key, value and what was expected.
    pub message: String,
    /// What may help.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// A file that parsed as TOML.
#[derive(Debug)]
pub struct Document<'t> {
    file: String,
    text: &'t str,
}

/// Reads the file's text.
///
/// # Errors
/// A [`Problem`] that says why it can't be read.
pub fn read(path: &Path) -> Result<String, Problem> {
    std::fs::read_to_string(path).map_err(|error| Problem {
        file: path.display().to_string(),
        line: None,
        message: match error.kind() {
            std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
            std::io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
            _ => format!("can't be read: {error}"),
        },
        hint: None,
    })
}

impl<'t> Document<'t> {
    /// Parses the text as TOML.
    ///
    /// # Errors
    /// A [`Problem`] with the line where it stops being TOML.
    pub fn parse<'d>(
        path: &Path,
        text: &'t str,
        place: &'d mut Option<Document<'t>>,
    ) -> Result<Section<'d, 't>, Problem> {
        let document = place.insert(Document { file: path.display().to_string(), text });
        match DeTable::parse(text) {
            Ok(table) => {
                let span = table.span();
                Ok(Section::new(document, String::new(), span, table.into_inner()))
            }
            Err(error) => {
                Err(document.problem(error.span(), format!("not TOML: {}", error.message())))
            }
        }
    }

    fn problem(&self, span: Option<Range<usize>>, message: String) -> Problem {
        let line = span.map(|span| {
            let before = self.text.get(..span.start).unwrap_or(self.text);
            before.bytes().filter(|&b| b == b'\n').count() + 1
        });
        Problem { file: self.file.clone(), line, message, hint: None }
    }
}

/// A table of the file: its keys not yet taken.
#[derive(Debug)]
pub struct Section<'d, 't> {
    document: &'d Document<'t>,
    path: String,
    span: Range<usize>,
    table: DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'d, 't> Section<'d, 't> {
    fn new(
        document: &'d Document<'t>,
        path: String,
        span: Range<usize>,
        table: DeTable<'t>,
    ) -> Self {
        Self { document, path, span, table, known: Vec::new() }
    }

    /// Takes a key, if it is there.
    pub fn take(&mut self, key: &'static str) -> Option<Entry<'d, 't>> {
        self.known.push(key);
        let value = self.table.remove(key)?;
        Some(Entry::new(self.document, join(&self.path, key), value))
    }

    /// Takes a key that must be there.
    ///
    /// # Errors
    /// A [`Problem`] that says what was expected.
    pub fn require(&mut self, key: &'static str, expected: &str) -> Result<Entry<'d, 't>, Problem> {
        self.take(key).ok_or_else(|| {
            let at = if self.path.is_empty() { None } else { Some(self.span.clone()) };
            let name = join(&self.path, key);
            self.document.problem(at, format!("{name} is missing; expected {expected}"))
        })
    }

    /// Takes a table. One that is not there is empty.
    ///
    /// # Errors
    /// A [`Problem`] if it is something else.
    pub fn section(&mut self, key: &'static str) -> Result<Section<'d, 't>, Problem> {
        match self.take(key) {
            Some(entry) => entry.section(),
            None => Ok(Section::new(
                self.document,
                join(&self.path, key),
                self.span.clone(),
                DeTable::new(),
            )),
        }
    }

    /// Takes an array of tables (`[[key]]`). One that is not there is empty.
    ///
    /// # Errors
    /// A [`Problem`] if it is something else.
    pub fn sections(&mut self, key: &'static str) -> Result<Vec<Section<'d, 't>>, Problem> {
        match self.take(key) {
            Some(entry) => entry
                .list("tables, written [[…]]")?
                .into_iter()
                .map(|mut entry| {
                    entry.path = format!("[[{key}]]");
                    entry.section()
                })
                .collect(),
            None => Ok(Vec::new()),
        }
    }

    /// Takes all keys that are left, in the file's order: a table whose keys are names.
    #[must_use]
    pub fn entries(self) -> Vec<(String, Entry<'d, 't>)> {
        let mut keys: Vec<_> = self.table.into_iter().collect();
        keys.sort_by_key(|(key, _)| key.span().start);
        keys.into_iter()
            .map(|(key, value)| {
                let key = key.into_inner().into_owned();
                let entry = Entry::new(self.document, join(&self.path, &key), value);
                (key, entry)
            })
            .collect()
    }

    /// Takes all keys that are left, each a text.
    ///
    /// # Errors
    /// A [`Problem`] for the first that is no text.
    pub fn texts(self) -> Result<Vec<(String, String)>, Problem> {
        self.entries().into_iter().map(|(key, entry)| Ok((key, entry.text("a text")?))).collect()
    }

    /// Whether the file names no key of this table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Ends the walk.
    ///
    /// # Errors
    /// A [`Problem`] for the first key that nobody took.
    pub fn finish(self) -> Result<(), Problem> {
        let Some(key) = self.table.keys().min_by_key(|key| key.span().start) else {
            return Ok(());
        };
        let name = key.get_ref();
        let place = if self.path.is_empty() { "at the top" } else { self.path.as_str() };
        let message = format!(
            "unknown key {name:?} {}{place}",
            if self.path.is_empty() { "" } else { "in " }
        );
        let mut problem = self.document.problem(Some(key.span()), message);
        problem.hint = Some(match nearest(name, &self.known) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("the keys here are {}", self.known.join(", ")),
        });
        Err(problem)
    }

    /// A problem with this table as a whole.
    #[must_use]
    pub fn problem(&self, message: &str) -> Problem {
        if self.path.is_empty() {
            return self.document.problem(None, message.to_owned());
        }
        self.document.problem(Some(self.span.clone()), format!("{}: {message}", self.path))
    }
}

/// A key's value.
#[derive(Debug)]
pub struct Entry<'d, 't> {
    document: &'d Document<'t>,
    path: String,
    span: Range<usize>,
    value: DeValue<'t>,
}

impl<'d, 't> Entry<'d, 't> {
    fn new(document: &'d Document<'t>, path: String, value: Spanned<DeValue<'t>>) -> Self {
        Self { document, path, span: value.span(), value: value.into_inner() }
    }

    /// The text it must be.
    ///
    /// # Errors
    /// A [`Problem`] if it is something else.
    pub fn text(self, expected: &str) -> Result<String, Problem> {
        match self.value {
            DeValue::String(text) => Ok(text.into_owned()),
            _ => Err(self.wrong(expected)),
        }
    }

    /// The value that its text parses to.
    ///
    /// # Errors
    /// A [`Problem`] with what the parser says.
    pub fn parse<T>(self, expected: &str) -> Result<T, Problem>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let DeValue::String(text) = &self.value else {
            return Err(self.wrong(expected));
        };
        match text.parse() {
            Ok(value) => Ok(value),
            Err(error) => {
                let mut problem = self.wrong(expected);
                let said = T::Err::to_string(&error);
                if !said.is_empty() && said != expected {
                    problem.hint = Some(said);
                }
                Err(problem)
            }
        }
    }

    /// The whole number it must be, within bounds.
    ///
    /// # Errors
    /// A [`Problem`] if it is something else.
    pub fn number(self, bounds: std::ops::RangeInclusive<u64>) -> Result<u64, Problem> {
        let found = self
            .value
            .as_integer()
            .and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok())
            .filter(|n| bounds.contains(n));
        found.ok_or_else(|| {
            self.wrong(&format!("a whole number from {} to {}", bounds.start(), bounds.end()))
        })
    }

    /// Its elements.
    ///
    /// # Errors
    /// A [`Problem`] if it is no array.
    pub fn list(self, expected: &str) -> Result<Vec<Entry<'d, 't>>, Problem> {
        let DeValue::Array(_) = &self.value else {
            return Err(self.wrong(&format!("an array of {expected}")));
        };
        let DeValue::Array(array) = self.value else {
            return Ok(Vec::new());
        };
        Ok(array
            .into_iter()
            .map(|value| Entry::new(self.document, self.path.clone(), value))
            .collect())
    }

    /// The table it must be.
    ///
    /// # Errors
    /// A [`Problem`] if it is something else.
    pub fn section(self) -> Result<Section<'d, 't>, Problem> {
        match self.value {
            DeValue::Table(table) => Ok(Section::new(self.document, self.path, self.span, table)),
            _ => Err(self.wrong("a table")),
        }
    }

    /// The boolean it must be.
    ///
    /// # Errors
    /// A [`Problem`] if it is something else.
    pub fn flag(self) -> Result<bool, Problem> {
        self.value.as_bool().ok_or_else(|| self.wrong("true or false"))
    }

    /// The whole number it is, if it is one.
    #[must_use]
    pub fn as_number(&self) -> Option<u64> {
        self.value.as_integer().and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok())
    }

    /// Whether it is a text.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.value.is_str()
    }

    /// This value is not what was expected here.
    #[must_use]
    pub fn wrong(&self, expected: &str) -> Problem {
        let value = self.document.text.get(self.span.clone()).unwrap_or_default();
        let value: String = value.chars().take(80).take_while(|&c| c != '\n').collect();
        let message = format!("{} = {value}: expected {expected}", self.path);
        self.document.problem(Some(self.span.clone()), message)
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else if path.starts_with("[[") {
        format!("{path} {key}")
    } else {
        format!("{path}.{key}")
    }
}

/// The known word nearest to `word`, if one is near enough to be what was meant.
#[must_use]
pub fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    known
        .iter()
        .map(|&candidate| (distance(word, candidate), candidate))
        .min()
        .filter(|&(steps, candidate)| steps <= 1 + candidate.len() / 4)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let cost = if from == to { diagonal } else { 1 + diagonal.min(row[j]).min(row[j + 1]) };
            diagonal = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_key() {
        let known = ["state_dir", "key_file", "name"];
        assert_eq!(nearest("state_dri", &known), Some("state_dir"));
        assert_eq!(nearest("keyfile", &known), Some("key_file"));
        assert_eq!(nearest("colour", &known), None);
    }
}
