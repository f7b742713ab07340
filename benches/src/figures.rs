//! Samples, and the table that is printed of them.

use serde_json::{Value, json};

/// A series of durations in microseconds.
#[derive(Debug, Default, Clone)]
pub struct Series(Vec<f64>);

impl Series {
    pub fn push(&mut self, us: f64) {
        self.0.push(us);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value that `share` of the samples do not exceed; 0 of none.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
    }

    pub fn p50(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn p99(&self) -> f64 {
        self.quantile(0.99)
    }
}

/// The median.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    Series(values.into_iter().collect()).p50()
}

/// Which side of the target is good.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// This.
    Exactly(f64),
    /// It is only shown.
    None,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Figure {
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    /// What could not be beaten in this run, in the same unit.
    pub floor: Option<f64>,
    pub target: Target,
    /// The target is about the ratio to the floor, not about the value.
    pub of_ratio: bool,
}

impl Figure {
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str, target: Target) -> Self {
        Self { what: what.into(), value, unit, floor: None, target, of_ratio: false }
    }

    pub fn beside(mut self, floor: f64) -> Self {
        self.floor = Some(floor);
        self
    }

    /// A figure whose ratio to its floor is to reach the target.
    pub fn ratio(
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        floor: f64,
        target: Target,
    ) -> Self {
        Self { what: what.into(), value, unit, floor: Some(floor), target, of_ratio: true }
    }

    fn by_floor(&self) -> Option<f64> {
        self.floor.filter(|floor| *floor > 0.0).map(|floor| self.value / floor)
    }

    fn is_reached(&self) -> Option<bool> {
        let value = if self.of_ratio { self.by_floor()? } else { self.value };
        match self.target {
            Target::AtMost(most) => Some(value <= most),
            Target::AtLeast(least) => Some(value >= least),
            Target::Exactly(wanted) => Some((value - wanted).abs() < 0.5),
            Target::None => None,
        }
    }

    fn target_text(&self) -> String {
        let unit = if self.of_ratio { "×" } else { self.unit };
        match self.target {
            Target::AtMost(most) => format!("≤ {} {unit}", number(most)),
            Target::AtLeast(least) => format!("≥ {} {unit}", number(least)),
            Target::Exactly(wanted) => format!("{} {unit}", number(wanted)),
            Target::None => String::new(),
        }
    }

    fn verdict(&self) -> &'static str {
        match self.is_reached() {
            Some(true) => "ok",
            Some(false) => "NOT",
            None => "",
        }
    }
}

/// Prints each figure as soon as it is known.
pub struct Table {
    json: bool,
}

const WIDTHS: [usize; 6] = [46, 16, 16, 8, 16, 4];

impl Table {
    pub fn begin(json: bool) -> Self {
        if !json {
            line(["figure", "measured", "floor", "ratio", "to reach", ""]);
            println!("{}", "─".repeat(WIDTHS.iter().sum::<usize>() + 5));
        }
        Self { json }
    }

    pub fn add(&self, row: &str, figure: &Figure) {
        let ratio = figure.by_floor();
        if self.json {
            let (bound, wanted) = match figure.target {
                Target::AtMost(v) => ("at_most", Value::from(v)),
                Target::AtLeast(v) => ("at_least", Value::from(v)),
                Target::Exactly(v) => ("exactly", Value::from(v)),
                Target::None => ("none", Value::Null),
            };
            println!(
                "{}",
                json!({
                    "row": row, "figure": figure.what, "value": figure.value,
                    "unit": figure.unit, "floor": figure.floor, "ratio": ratio,
                    "bound": bound, "target": wanted, "target_of_ratio": figure.of_ratio,
                    "reached": figure.is_reached(),
                })
            );
            return;
        }
        line([
            &figure.what,
            &format!("{} {}", number(figure.value), figure.unit),
            &figure
                .floor
                .map(|floor| format!("{} {}", number(floor), figure.unit))
                .unwrap_or_default(),
            &ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            &figure.target_text(),
            figure.verdict(),
        ]);
    }

    /// A remark, under the figures that it is about.
    pub fn note(&self, row: &str, text: &str) {
        if self.json {
            println!("{}", json!({ "row": row, "note": text }));
        } else {
            println!("    {text}");
        }
    }
}

fn line(cells: [&str; 6]) {
    let mut text = String::new();
    for (i, (cell, width)) in cells.iter().zip(WIDTHS).enumerate() {
        let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
        // The first and the last column are words, the others numbers.
        if i == 0 || i == 5 {
            text += &format!("{cell}{gap} ");
        } else {
            text += &format!("{gap}{cell} ");
        }
    }
    println!("{}", text.trim_end());
}

/// A number with as many digits as it deserves, thousands apart.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v.fract() == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 0.1 => 2,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), ""), |(w, f)| (w, f));
    let mut spaced = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) && whole.as_bytes()[i - 1] != b'-' {
            spaced.push(',');
        }
        spaced.push(c);
    }
    if fraction.is_empty() { spaced } else { format!("{spaced}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let series = Series((1..=101).map(f64::from).collect());
        assert_eq!((series.p50(), series.p99(), series.quantile(1.0)), (51.0, 100.0, 101.0));
        assert_eq!(Series::default().p50(), 0.0);
    }

    #[test]
    fn numbers_read_easily() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(0.019), "0.0190");
        assert_eq!(number(3.0), "3");
    }
}
