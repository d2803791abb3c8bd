//! A report as one page of HTML, which asks nothing of a network, and as Markdown for a pull request.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;

use super::compare::Comparison;
use super::error::ReportError;
use super::header::{Header, Subject};
use super::measurements::Measurements;
use super::plot::{Figure, short};
use super::sections::{comparison_table, micros, with_interval};
use super::summary::{FilterPoint, Point, Summary};

/// The files' names in a report's folder.
pub const HTML_FILE: &str = "index.html";
pub const MARKDOWN_FILE: &str = "summary.md";

/// Recalls that subjects are compared at.
const TARGETS: [f64; 3] = [0.90, 0.95, 0.99];

/// A table: what stands left, and numbers.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Table {
    caption: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Columns of words, not of numbers: they stand left.
    words: Vec<bool>,
}

impl Table {
    pub fn new(caption: impl Into<String>, head: Vec<String>, rows: Vec<Vec<String>>) -> Self {
        let is_number = |cell: &str| {
            cell.is_empty() || cell.starts_with(|c: char| "–+-×−".contains(c) || c.is_ascii_digit())
        };
        let words =
            (0..head.len()).map(|at| !rows.iter().all(|row| row.get(at).is_none_or(|cell| is_number(cell))));
        Self { caption: caption.into(), words: words.collect(), head, rows }
    }
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Section {
    pub id: &'static str,
    pub title: String,
    /// How to read it.
    pub lead: String,
    pub figures: Vec<Figure>,
    pub tables: Vec<Table>,
}

/// What the templates are given.
#[derive(Debug, Clone, Serialize)]
struct Page<'a> {
    title: String,
    header: &'a Header,
    facts: Vec<(String, String)>,
    faults: &'a [String],
    /// What stands first.
    tables: Vec<Table>,
    sections: Vec<Section>,
    css: &'static str,
}

impl<'a> Page<'a> {
    fn of(maker: &Maker<'a>, faults: &'a [String]) -> Self {
        let (tables, sections) = (Vec::new(), Vec::new());
        Self {
            title: maker.title(),
            header: maker.header,
            facts: maker.facts(),
            faults,
            tables,
            sections,
            css: "",
        }
    }
}

/// One subject with everything that is computed of it.
pub(super) struct Summed<'a> {
    pub subject: &'a Subject,
    pub colour: usize,
    pub points: Vec<Point>,
    pub filters: Vec<FilterPoint>,
}

impl Summed<'_> {
    pub fn default_point(&self) -> Option<&Point> {
        self.points.iter().find(|point| point.setting == self.subject.default_setting)
    }
}

pub(super) struct Maker<'a> {
    pub header: &'a Header,
    pub summary: Summary,
    pub subjects: Vec<Summed<'a>>,
    pub k: u32,
    /// Compared by CPU time: where peers are among them.
    pub by_cpu: bool,
}

/// The page. `faults` are what the report fails over, `comparison` where one was asked for.
///
/// # Errors
/// Measurements that cannot be summarised.
pub fn html(
    measurements: &Measurements,
    k: u32,
    comparison: Option<&Comparison>,
    faults: &[String],
) -> Result<String, ReportError> {
    let maker = Maker::new(measurements, k)?;
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let page = Page {
        sections: maker.sections(comparison)?,
        tables: vec![maker.headline()],
        css: include_str!("pages/report.css"),
        ..Page::of(&maker, faults)
    };
    render(&environment, include_str!("pages/report.html"), &page)
}

/// The same in short, for a pull request.
///
/// # Errors
/// As [`html`].
pub fn markdown(
    measurements: &Measurements,
    k: u32,
    comparison: Option<&Comparison>,
    faults: &[String],
) -> Result<String, ReportError> {
    let maker = Maker::new(measurements, k)?;
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    let mut tables = Vec::new();
    tables.extend(comparison.map(comparison_table));
    tables.push(maker.headline());
    // A bar would end a cell.
    for cell in tables
        .iter_mut()
        .flat_map(|table: &mut Table| table.head.iter_mut().chain(table.rows.iter_mut().flatten()))
    {
        *cell = cell.replace('|', "\\|").replace('\n', " ");
    }
    let page = Page { tables, ..Page::of(&maker, faults) };
    render(&environment, include_str!("pages/summary.md"), &page)
}

fn render(environment: &Environment<'_>, template: &str, page: &Page<'_>) -> Result<String, ReportError> {
    let rendered = environment.render_str(template, Serde(page));
    rendered.map_err(|error| ReportError::Page(format!("{error:#}")))
}

impl<'a> Maker<'a> {
    fn new(measurements: &'a Measurements, k: u32) -> Result<Self, ReportError> {
        let summary = Summary::new(measurements)?;
        let header = &measurements.header;
        let has_peers = header.subjects.iter().any(|subject| !subject.is_ours);
        let mut subjects = Vec::new();
        for (colour, subject) in header.subjects.iter().enumerate() {
            let points = summary.points(&subject.name, k, has_peers)?;
            let filters = summary.filters(&subject.name)?;
            subjects.push(Summed { subject, colour, points, filters });
        }
        Ok(Self { header, summary, subjects, k, by_cpu: has_peers })
    }

    pub fn title(&self) -> String {
        let names: Vec<&str> = self.header.subjects.iter().map(|subject| subject.name.as_str()).collect();
        match &names[..] {
            _ if !self.header.title.is_empty() => self.header.title.clone(),
            [one] => (*one).to_string(),
            [one, two] => format!("{one} and {two}"),
            [one, .., last] => format!("{one}, … {last}: {} indexes", names.len()),
            [] => "nothing".into(),
        }
    }

    /// Whether a series stands out.
    pub fn emphasised(&self, subject: &Subject) -> bool {
        subject.is_ours && (self.by_cpu || self.subjects.len() == 1)
    }

    fn facts(&self) -> Vec<(String, String)> {
        let Header { machine, dataset, .. } = self.header;
        let mut facts = vec![
            (
                "machine".to_string(),
                format!("{}, {} threads, {}", machine.cpu, machine.threads, machine.platform),
            ),
            ("instruction set".into(), machine.instruction_set.clone()),
            ("backend of the exact neighbours".into(), machine.backend.clone()),
            ("load when it began".into(), machine.load.map_or(String::new(), |load| format!("{load:.2}"))),
            (
                "queries".into(),
                format!(
                    "{} × {}, {} ({})",
                    dataset.queries, dataset.dim, dataset.metric, dataset.queries_uri
                ),
            ),
            ("query set digest".into(), dataset.digest.clone()),
            ("ground truth".into(), dataset.truth.clone()),
            (
                "rounds".into(),
                format!(
                    "{}{}",
                    self.header.rounds,
                    if self.header.interleaved { ", interleaved" } else { "" }
                ),
            ),
            ("seed".into(), self.header.seed.to_string()),
            ("annvil".into(), self.header.annvil_version.clone()),
            ("command".into(), self.header.command.clone()),
        ];
        for subject in &self.header.subjects {
            if !subject.facts.is_empty() {
                let version = subject.version.map_or(String::new(), |version| format!(" version {version},"));
                let told: Vec<String> =
                    subject.facts.iter().map(|(name, value)| format!("{name} {value}")).collect();
                let what = format!("{}{version} {} rows, {}", subject.uri, subject.rows, told.join(", "));
                facts.push((subject.name.clone(), what));
            }
        }
        facts.retain(|(_, value)| !value.trim().is_empty());
        facts
    }

    /// The default of each subject, or, of peers, its speed at some recalls.
    fn headline(&self) -> Table {
        if self.by_cpu {
            return self.at_targets();
        }
        let head = [
            "",
            "setting",
            &format!("recall@{}", self.k),
            "p50",
            "p99",
            "queries/s, 1 thread",
            "all threads",
            "bytes per vector",
        ];
        let rows = self.subjects.iter().filter_map(|summed| {
            let point = summed.default_point()?;
            let bytes =
                self.total(summed.subject, "bytes").unwrap_or(0.0) / (summed.subject.rows as f64).max(1.0);
            Some(vec![
                summed.subject.name.clone(),
                point.setting.clone(),
                point.recall_at(self.k).map_or("–".into(), with_interval),
                point.latency.map_or("–".into(), |latency| micros(latency.p50)),
                point.latency.map_or("–".into(), |latency| micros(latency.p99)),
                point.qps.map_or("–".into(), |qps| short(qps.median)),
                point.qps_many.map_or("–".into(), |(_, qps)| short(qps.median)),
                short(bytes),
            ])
        });
        Table::new("At the default settings", head.map(String::from).to_vec(), rows.collect())
    }

    fn at_targets(&self) -> Table {
        let mut head = vec![String::new(), "build, CPU-s".into()];
        head.extend(TARGETS.map(|target| format!("at {target:.2}")));
        head.push("rounds' spread".into());
        let rows = self.subjects.iter().map(|summed| {
            let build = self.total(summed.subject, "build_cpu_s");
            let mut row = vec![
                summed.subject.name.clone(),
                build.map_or("–".into(), |seconds| format!("{seconds:.1}")),
            ];
            let frontier: Vec<&Point> = summed.points.iter().filter(|point| point.on_frontier).collect();
            row.extend(TARGETS.map(|target| self.speed_at(&frontier, target).map_or("–".into(), short)));
            let spreads = frontier.iter().filter_map(|point| point.speed(self.by_cpu));
            let widest = spreads.map(|spread| (spread.high - spread.low) / spread.median).fold(0.0, f64::max);
            row.push(format!("{:.0} %", widest * 100.0));
            row
        });
        let caption = format!("Queries per CPU-second at recall@{}, one thread", self.k);
        Table::new(caption, head, rows.collect())
    }

    fn speed_at(&self, frontier: &[&Point], target: f64) -> Option<f64> {
        let recall = |point: &Point| point.recall_at(self.k).map_or(0.0, |recall| recall.mean);
        let speed = |point: &Point| point.speed(self.by_cpu).map(|spread| spread.median);
        let above = frontier.iter().position(|point| recall(point) >= target)?;
        let Some(below) = above.checked_sub(1) else { return speed(frontier[above]) };
        let (low, high) = (frontier[below], frontier[above]);
        let share = (target - recall(low)) / (recall(high) - recall(low));
        Some(((1.0 - share) * speed(low)?.ln() + share * speed(high)?.ln()).exp())
    }

    /// Of all items together.
    pub fn total(&self, subject: &Subject, measure: &str) -> Option<f64> {
        let values = self.summary.medians(&subject.name, measure).ok()?;
        (!values.is_empty()).then(|| values.iter().map(|(_, value)| value).sum())
    }
}
