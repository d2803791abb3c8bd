//! The sections of a report's page: each a plot, and under it a table of what is plotted.

use super::compare::Comparison;
use super::error::ReportError;
use super::header::Subject;
use super::page::{Maker, Section, Summed, Table};
use super::plot::{Axis, Bar, Figure, Lines, Names, Scale, Series, bars, short};
use super::recall::RecallSummary;
use super::summary::{FilterPoint, Percentiles, Point, Spread};

/// Columns of a latency histogram, from its least to its greatest value, evenly on a logarithmic axis.
const BINS: usize = 40;

impl Maker<'_> {
    /// All that there are numbers for.
    pub fn sections(&self, comparison: Option<&Comparison>) -> Result<Vec<Section>, ReportError> {
        let mut sections = Vec::new();
        sections.extend(comparison.map(comparison_section));
        sections.push(self.frontier());
        sections.extend(self.latency()?);
        sections.extend(self.recall_of_queries()?);
        sections.extend(self.filters());
        sections.extend(self.build()?);
        sections.extend(self.size()?);
        sections.extend(self.hubs()?);
        Ok(sections)
    }

    fn frontier(&self) -> Section {
        let recall = |point: &Point| point.recall_at(self.k).map(|recall| recall.mean);
        let mut series = Vec::new();
        for summed in &self.subjects {
            let frontier = summed.points.iter().filter(|point| point.on_frontier);
            let placed: Vec<(&Point, f64, Spread)> = frontier
                .filter_map(|point| Some((point, recall(point)?, point.speed(self.by_cpu)?)))
                .collect();
            if placed.is_empty() {
                continue;
            }
            series.push(Series {
                name: summed.subject.name.clone(),
                points: placed.iter().map(|(_, recall, speed)| (*recall, speed.median)).collect(),
                ranges: placed.iter().map(|(.., speed)| (speed.low, speed.high)).collect(),
                emphasised: self.emphasised(summed.subject),
                markers: true,
                colour: summed.colour,
                ring: placed.iter().position(|(point, ..)| point.setting == summed.subject.default_setting),
                ..Series::default()
            });
        }
        let unit = if self.by_cpu { "CPU-second" } else { "second" };
        // Below half of the rows found nobody chooses.
        let least = if series.iter().flat_map(|s| &s.points).any(|p| p.0 >= 0.8) { 0.5 } else { 0.0 };
        for one in &mut series {
            let skipped = one.points.iter().take_while(|point| point.0 < least).count();
            let skipped = skipped.min(one.points.len().saturating_sub(1));
            one.points.drain(..skipped);
            one.ranges.drain(..skipped);
            one.ring = one.ring.and_then(|ring| ring.checked_sub(skipped));
        }
        let xs: Vec<f64> = series.iter().flat_map(|s| s.points.iter().map(|point| point.0)).collect();
        let ys: Vec<f64> = series.iter().flat_map(|s| s.ranges.iter().flat_map(|r| [r.0, r.1])).collect();
        let plot = Lines {
            description: format!("Throughput against recall of {}", self.title()),
            x: Axis::around(&format!("recall@{}, stretched towards 1", self.k), Scale::Nines, xs.into_iter()),
            y: Axis::around(&format!("queries per {unit}, one thread"), Scale::Log, ys.into_iter()),
            series,
            names: Names::AtEnd,
        };
        let rings = if self.by_cpu { "" } else { " A ring is the default setting." };
        Section {
            id: "frontier",
            title: "Recall and throughput".into(),
            lead: format!(
                "Up and right is better. Only settings that nothing beats in both; bars are the range over the rounds.{rings}"
            ),
            figures: vec![plot.figure()],
            tables: self.subjects.iter().map(|summed| self.settings(summed)).collect(),
        }
    }

    fn settings(&self, summed: &Summed<'_>) -> Table {
        let mut ks: Vec<u32> =
            summed.points.iter().flat_map(|point| point.recalls.iter().map(|(k, _)| *k)).collect();
        ks.sort_unstable();
        ks.dedup();
        let many = summed.points.iter().find_map(|point| point.qps_many.map(|(threads, _)| threads));
        let mut head = vec!["setting".to_string()];
        head.extend(ks.iter().map(|k| format!("recall@{k}")));
        head.push("queries/s".into());
        head.extend(many.map(|threads| format!("on {threads} threads")));
        head.extend(["per CPU-s", "p50", "p95", "p99", "p99.9"].map(String::from));
        let rows = summed.points.iter().map(|point| {
            let is_default = point.setting == summed.subject.default_setting;
            let mut row = vec![format!("{}{}", point.setting, if is_default { " (default)" } else { "" })];
            row.extend(ks.iter().map(|&k| point.recall_at(k).map_or("–".into(), with_interval)));
            row.push(point.qps.map_or("–".into(), |qps| short(qps.median)));
            row.extend(many.map(|_| point.qps_many.map_or("–".into(), |(_, qps)| short(qps.median))));
            row.push(point.cpu_qps.map_or("–".into(), |qps| short(qps.median)));
            let latency = |of: fn(Percentiles) -> f64| point.latency.map_or("–".into(), |l| micros(of(l)));
            row.extend([latency(|l| l.p50), latency(|l| l.p95), latency(|l| l.p99), latency(|l| l.p999)]);
            row
        });
        Table::new(summed.subject.name.clone(), head, rows.collect())
    }

    fn latency(&self) -> Result<Option<Section>, ReportError> {
        let mut series = Vec::new();
        let mut all = Vec::new();
        for summed in &self.subjects {
            let setting = &summed.subject.default_setting;
            let values = self.summary.values_at(&summed.subject.name, "latency_us", setting, 0)?;
            if values.len() > 1 {
                all.push((summed, values));
            }
        }
        if all.is_empty() {
            return Ok(None);
        }
        let mut sorted: Vec<f64> = all.iter().flat_map(|(_, values)| values).copied().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        // The few that waited for something else would squeeze all others.
        let (low, high) = (sorted[0], sorted[(sorted.len() - 1) * 199 / 200]);
        let step = (high / low).max(1.01).ln() / BINS as f64;
        for (summed, values) in &all {
            let mut counts = [0u32; BINS];
            for value in values.iter().filter(|value| **value <= high) {
                counts[(((value / low).ln() / step) as usize).min(BINS - 1)] += 1;
            }
            let share = |count: u32| 100.0 * f64::from(count) / values.len() as f64;
            let edge = |at: usize| low * (step * at as f64).exp();
            let points = counts.iter().enumerate();
            let points =
                points.flat_map(|(at, &count)| [(edge(at), share(count)), (edge(at + 1), share(count))]);
            series.push(Series {
                name: format!("{} {}", summed.subject.name, summed.subject.default_setting),
                points: points.collect(),
                emphasised: self.emphasised(summed.subject),
                colour: summed.colour,
                ..Series::default()
            });
        }
        let top = series.iter().flat_map(|s| &s.points).map(|point| point.1).fold(0.0, f64::max);
        let plot = Lines {
            description: "How long single queries take at the default setting".into(),
            x: Axis {
                title: "microseconds of one query".into(),
                scale: Scale::Log,
                low: low / 1.05,
                high: high * 1.05,
            },
            y: Axis { title: "share of queries, %".into(), scale: Scale::Linear, low: 0.0, high: top * 1.15 },
            series,
            names: Names::AtPeak,
        };
        let head =
            ["", "setting", "queries × rounds", "p50", "p95", "p99", "p99.9"].map(String::from).to_vec();
        let rows = all.iter().filter_map(|(summed, _)| {
            let point = summed.default_point()?;
            let latency = point.latency?;
            let mut row = vec![summed.subject.name.clone(), point.setting.clone(), latency.count.to_string()];
            row.extend([latency.p50, latency.p95, latency.p99, latency.p999].map(micros));
            Some(row)
        });
        let table = Table::new("", head, rows.collect());
        Ok(Some(Section {
            id: "latency",
            title: "Latency of single queries".into(),
            lead: "One query at a time on one thread, at the default setting; the slowest half percent lies beyond the axis.".into(),
            figures: vec![plot.figure()],
            tables: vec![table],
        }))
    }

    fn recall_of_queries(&self) -> Result<Option<Section>, ReportError> {
        let mut series = Vec::new();
        let mut rows = Vec::new();
        for summed in &self.subjects {
            let Subject { name, default_setting, .. } = summed.subject;
            let mut recalls = self.summary.values_at(name, "recall", default_setting, self.k)?;
            if recalls.len() < 2 {
                continue;
            }
            recalls.sort_unstable_by(f64::total_cmp);
            let n = recalls.len() as f64;
            let share = |limit: f64| recalls.partition_point(|recall| *recall <= limit + 1e-9) as f64 / n;
            let tenths: Vec<f64> = (0..=10).map(|tenth| f64::from(tenth) / 10.0).collect();
            rows.push(
                std::iter::once(name.clone())
                    .chain(tenths.iter().map(|&limit| format!("{:.2} %", 100.0 * share(limit))))
                    .collect(),
            );
            series.push(Series {
                name: name.clone(),
                points: tenths
                    .iter()
                    .map(|&limit| (limit, 100.0 * share(limit)))
                    .filter(|p| p.1 > 0.0)
                    .collect(),
                emphasised: self.emphasised(summed.subject),
                markers: true,
                colour: summed.colour,
                ..Series::default()
            });
        }
        if series.is_empty() {
            return Ok(None);
        }
        let ys = series
            .iter()
            .flat_map(|s| s.points.iter().map(|point| point.1))
            .chain([100.0])
            .collect::<Vec<_>>();
        let plot = Lines {
            description: "Share of queries whose recall is at most so much".into(),
            x: Axis {
                title: format!("recall@{} of a query", self.k),
                scale: Scale::Linear,
                low: -0.03,
                high: 1.03,
            },
            y: Axis::around("queries that found at most this share, %", Scale::Log, ys.into_iter()),
            series,
            names: Names::AtEnd,
        };
        let mut head = vec!["at most".to_string()];
        head.extend((0..=10).map(|tenth| format!("{:.1}", f64::from(tenth) / 10.0)));
        let mut tables = vec![Table::new("", head, rows)];
        for summed in self.subjects.iter().filter(|summed| !summed.subject.worst_queries.is_empty()) {
            let head =
                ["query", &format!("recall@{}", self.k), "nearest row", "its distance", "its attributes"];
            let rows = summed.subject.worst_queries.iter().map(|query| {
                let mut row = vec![query.id.clone()];
                row.extend(query.values.iter().cloned());
                row.push(query.attributes.clone());
                row
            });
            let caption =
                format!("The worst queries of {}, {}", summed.subject.name, summed.subject.default_setting);
            tables.push(Table::new(caption, head.map(String::from).to_vec(), rows.collect()));
        }
        Ok(Some(Section {
            id: "queries",
            title: "Recall of single queries".into(),
            lead: "At the default setting. A mean hides who is answered badly: further down on the left is better.".into(),
            figures: vec![plot.figure()],
            tables,
        }))
    }

    fn filters(&self) -> Option<Section> {
        let with: Vec<&Summed<'_>> =
            self.subjects.iter().filter(|summed| !summed.filters.is_empty()).collect();
        if with.is_empty() {
            return None;
        }
        let lines = |title: &str, scale: Scale, y: &dyn Fn(&FilterPoint) -> Option<f64>| {
            let series: Vec<Series> = with
                .iter()
                .map(|summed| Series {
                    name: summed.subject.name.clone(),
                    points: summed
                        .filters
                        .iter()
                        .rev()
                        .filter_map(|f| Some((100.0 * f.selectivity, y(f)?)))
                        .collect(),
                    emphasised: self.emphasised(summed.subject),
                    markers: true,
                    colour: summed.colour,
                    ..Series::default()
                })
                .collect();
            let of = |at: fn(&(f64, f64)) -> f64| {
                series.iter().flat_map(|s| &s.points).map(at).collect::<Vec<_>>()
            };
            let (xs, ys) = (of(|p| p.0), of(|p| p.1));
            let plot = Lines {
                description: format!("{title} under filters"),
                x: Axis::around("rows that the filter lets through, %", Scale::Log, xs.into_iter()),
                y: Axis::around(title, scale, ys.into_iter()),
                series,
                names: Names::AtEnd,
            };
            plot.figure()
        };
        let recall = format!("recall@{}", self.k);
        let figures = vec![
            lines(&recall, Scale::Linear, &|filter| Some(filter.recall.mean)),
            lines("p50 of one query, µs", Scale::Log, &|filter| filter.latency.map(|latency| latency.p50)),
        ];
        let head = ["", "filter", "rows", "how", &recall, "p50", "p99"].map(String::from).to_vec();
        let rows = with.iter().flat_map(|summed| {
            summed.filters.iter().map(|filter| {
                vec![
                    summed.subject.name.clone(),
                    filter.filter.clone(),
                    format!("{} %", short(100.0 * filter.selectivity)),
                    filter.way.clone(),
                    with_interval(filter.recall),
                    filter.latency.map_or("–".into(), |latency| micros(latency.p50)),
                    filter.latency.map_or("–".into(), |latency| micros(latency.p99)),
                ]
            })
        });
        let table = Table::new("", head, rows.collect());
        Some(Section {
            id: "filters",
            title: "Under filters".into(),
            lead: "At the default setting, against an exact search under the same filter.".into(),
            figures,
            tables: vec![table],
        })
    }

    fn build(&self) -> Result<Option<Section>, ReportError> {
        let (mut drawn, mut rows) = (Vec::new(), Vec::new());
        for summed in &self.subjects {
            let name = &summed.subject.name;
            let cpu = self.summary.medians(name, "build_cpu_s")?;
            let walls = self.summary.medians(name, "build_wall_s")?;
            for (at, (stage, seconds)) in cpu.iter().enumerate() {
                let text = format!("{} s", short(*seconds));
                let wall = walls.get(at).map_or("–".into(), |(_, wall)| format!("{} s", short(*wall)));
                rows.push(vec![name.clone(), stage.clone(), text.clone(), wall]);
                // Peers have one stage: their name is enough.
                let (group, bar) =
                    if self.by_cpu { (String::new(), name.clone()) } else { (name.clone(), stage.clone()) };
                drawn.push(Bar { group, name: bar, value: *seconds, text, colour: summed.colour });
            }
        }
        if drawn.is_empty() {
            return Ok(None);
        }
        let head = ["", "stage", "CPU time", "wall time"].map(String::from).to_vec();
        Ok(Some(Section {
            id: "build",
            title: "What building took".into(),
            lead: "Processor time, as the build wrote it down.".into(),
            figures: vec![bars("Processor time of the build's stages", &drawn)],
            tables: vec![Table::new("", head, rows)],
        }))
    }

    fn size(&self) -> Result<Option<Section>, ReportError> {
        let (mut drawn, mut rows, mut open) = (Vec::new(), Vec::new(), Vec::new());
        for summed in &self.subjects {
            let Subject { name, rows: count, .. } = summed.subject;
            let vectors = (*count as f64).max(1.0);
            let mut files = self.summary.values(name, "bytes")?;
            files.sort_by(|a, b| b.1.total_cmp(&a.1));
            for (file, bytes) in files {
                let text = short(bytes / vectors);
                rows.push(vec![name.clone(), file.clone(), text.clone(), size(bytes)]);
                drawn.push(Bar {
                    group: name.clone(),
                    name: file,
                    value: bytes / vectors,
                    text,
                    colour: summed.colour,
                });
            }
            let opened = self.summary.values(name, "open_ms")?;
            if let Some((_, first)) = opened.first() {
                let least = opened.iter().map(|(_, ms)| *ms).fold(f64::INFINITY, f64::min);
                let of = |measure| {
                    self.summary.values(name, measure).map(|v| v.first().map_or("–".into(), |v| size(v.1)))
                };
                open.push(vec![
                    name.clone(),
                    format!("{} ms", short(*first)),
                    format!("{} ms", short(least)),
                    of("memory_bytes")?,
                    of("needed_bytes")?,
                ]);
            }
        }
        if drawn.is_empty() {
            return Ok(None);
        }
        let head = |head: &[&str]| head.iter().map(|text| (*text).to_string()).collect();
        Ok(Some(Section {
            id: "size",
            title: "Bytes per vector, opening, memory".into(),
            lead: "Opening reads and checks everything. The files may have been in the system's cache: the first opening is what this run saw first, not a disk's speed.".into(),
            figures: vec![bars("Bytes per vector by file", &drawn)],
            tables: vec![
                Table::new("", head(&["", "file", "bytes per vector", "in all"]), rows),
                Table::new("Opening", head(&["", "first", "fastest", "the process grew by", "known to take"]), open),
            ],
        }))
    }

    fn hubs(&self) -> Result<Option<Section>, ReportError> {
        let mut series = Vec::new();
        let mut tables = Vec::new();
        let mut skews = Vec::new();
        for summed in &self.subjects {
            let Subject { name, hubs, skew, .. } = summed.subject;
            let Some((found, exact)) = skew else { continue };
            skews.push(vec![name.clone(), format!("{found:.2}"), format!("{exact:.2}")]);
            for (measure, dashed) in [("occurrences", false), ("true_occurrences", true)] {
                let counts = self.summary.ranked(name, measure)?;
                // Every rank at first, then those that a logarithmic axis can tell apart.
                let mut points: Vec<(f64, f64)> = Vec::new();
                for (rank, &count) in counts.iter().enumerate() {
                    let rank = (rank + 1) as f64;
                    if points.last().is_none_or(|last| rank >= last.0 * 1.04) {
                        points.push((rank, count));
                    }
                }
                let label = if dashed { format!("{name}, exact") } else { name.clone() };
                series.push(Series {
                    name: label,
                    points,
                    dashed,
                    colour: summed.colour,
                    ..Series::default()
                });
            }
            let head = ["row", "returned", "exact", "attributes"].map(String::from).to_vec();
            let rows = hubs.iter().map(|hub| {
                let mut row = vec![hub.id.clone()];
                row.extend(hub.values.iter().cloned());
                row.push(hub.attributes.clone());
                row
            });
            tables.push(Table::new(format!("Rows returned most often by {name}"), head, rows.collect()));
        }
        series.retain(|series| !series.points.is_empty());
        if series.is_empty() {
            return Ok(None);
        }
        let of =
            |at: fn(&(f64, f64)) -> f64| series.iter().flat_map(|s| &s.points).map(at).collect::<Vec<_>>();
        let (xs, ys) = (of(|p| p.0), of(|p| p.1));
        let plot = Lines {
            description: "How often rows are returned, the most frequent first".into(),
            x: Axis::around("rows by rank", Scale::Log, xs.into_iter()),
            y: Axis::around(
                &format!("queries that have the row among {}", self.k),
                Scale::Log,
                ys.into_iter(),
            ),
            series,
            names: Names::AtEnd,
        };
        let head = ["", "found", "exact"].map(String::from).to_vec();
        tables.insert(0, Table::new("Skewness of the number of times that a row is returned", head, skews));
        Ok(Some(Section {
            id: "hubs",
            title: "Hubs".into(),
            lead: "Rows that are near to everything are returned too often; dashed is how often they should be. A line under its dashed one at the left: hubs are missed.".into(),
            figures: vec![plot.figure()],
            tables,
        }))
    }
}

fn comparison_section(comparison: &Comparison) -> Section {
    let how = if comparison.interleaved {
        "Measured by turns in one run, so that what the machine did besides falls on both."
    } else {
        "Measured in separate runs: what the machine did differently between them is in the ratios, and not in their intervals."
    };
    Section {
        id: "comparison",
        title: "What changed".into(),
        lead: format!(
            "{how} Beyond noise is what has an interval without 1 (of ratios) or 0 (of differences)."
        ),
        figures: vec![ratios(comparison)],
        tables: vec![comparison_table(comparison)],
    }
}

/// Ratios as intervals, one line each.
fn ratios(comparison: &Comparison) -> Figure {
    let ratios = comparison.lines.iter().filter(|line| line.change.starts_with('×'));
    let drawn: Vec<Bar> = ratios
        .map(|line| Bar {
            group: String::new(),
            name: line.what.clone(),
            value: line.estimate,
            text: format!("{} {}", line.change, line.verdict),
            colour: match line.verdict {
                "slower" => 1,
                "faster" => 2,
                _ => 7,
            },
        })
        .collect();
    bars("B divided by A", &drawn)
}

/// What changed, line by line.
pub fn comparison_table(comparison: &Comparison) -> Table {
    let head = ["", "A", "B", "B against A", "95 % interval", ""];
    let rows = comparison.lines.iter().map(|line| {
        vec![
            line.what.clone(),
            line.a.clone(),
            line.b.clone(),
            line.change.clone(),
            line.interval.clone(),
            line.verdict.to_string(),
        ]
    });
    let caption = format!("A: {}; B: {}", comparison.a, comparison.b);
    Table::new(caption, head.map(String::from).to_vec(), rows.collect())
}

/// `0.953 ±0.004`: the wider half where the interval is lopsided.
pub fn with_interval(recall: RecallSummary) -> String {
    let half = (recall.high - recall.mean).max(recall.mean - recall.low);
    // A recall is never shown as more than it is.
    let mean = (recall.mean * 1e4 + 1e-6).floor() / 1e4;
    if half <= 0.0 { format!("{mean:.4}") } else { format!("{mean:.4} ±{half:.4}") }
}

/// `73.3 µs`, `1.2 ms`
pub fn micros(value: f64) -> String {
    if value >= 1e3 { format!("{} ms", short(value / 1e3)) } else { format!("{} µs", short(value)) }
}

fn size(bytes: f64) -> String {
    match bytes {
        b if b >= 1024.0 * 1024.0 * 1024.0 => format!("{:.2} GiB", b / (1024.0 * 1024.0 * 1024.0)),
        b if b >= 1024.0 * 1024.0 => format!("{:.1} MiB", b / (1024.0 * 1024.0)),
        b => format!("{:.1} KiB", b / 1024.0),
    }
}
