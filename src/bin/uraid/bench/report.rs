//! Figures into ratios, and ratios into a table or a document.
//!
//! The limit: if disks alone read R bytes a second and write W, and a byte of the request costs r bytes read
//! and w written, nothing that keeps to the level's rules is faster than 1 / (r/R + w/W). That is raw / 2 for
//! two copies, raw x 3/4 for a full stripe of three and one, 1 / (2/R + 2/W) for a small write to it.

use serde::Serialize;
use uraid::Lu;
use uraid::disk::traced::Counts;
use uraid::lu::Status;
use uraid::units::SECTOR;

use super::load::{Figures, Load};
use super::rebuild::Beside;
use super::{Pattern, Work};
use crate::console::Console;
use crate::failure::Outcome;
use crate::size;

/// What a byte of a request costs the disks, by the level's rules, on average.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct Price {
    /// Bytes read for a byte.
    pub(super) read: f64,
    /// Bytes written for a byte.
    pub(super) written: f64,
}

/// What `load` costs on `lu`.
pub(super) fn price(lu: &Lu, load: &Load) -> Outcome<Price> {
    let (mut read, mut written, mut bytes) = (0, 0, 0);
    let mut add = |offset: u64, len: u64, write: bool| -> Outcome {
        let cost = lu.cost(offset, len, write)?;
        read += cost.read.bytes();
        written += cost.written.bytes();
        bytes += len;
        Ok(())
    };
    if load.is_sequential() {
        // As one long request: what lies one after the other can be done together.
        let (writes, _) = load.directions();
        let len = load.size().min(16 << 20) / SECTOR * SECTOR;
        add(0, len, writes)?;
    } else {
        load.sample().into_iter().try_for_each(|(offset, write)| add(offset, load.bs, write))?;
    }
    Ok(Price { read: read as f64 / bytes as f64, written: written as f64 / bytes as f64 })
}

/// Of the disks alone, as far as it was measured.
#[derive(Default)]
pub(super) struct RawFigures {
    pub(super) read: Option<Figures>,
    pub(super) write: Option<Figures>,
}

/// The raw disks, the LU, the raw disks again.
pub(super) struct Round {
    pub(super) raw: [RawFigures; 2],
    pub(super) lu: Figures,
    /// For a rebuild: reads without and with one.
    pub(super) beside: Option<Beside>,
}

impl Round {
    /// Both measurements of the disks, reading or writing.
    fn raw(&self, write: bool) -> impl Iterator<Item = &Figures> {
        self.raw.iter().filter_map(move |raw| if write { raw.write.as_ref() } else { raw.read.as_ref() })
    }

    /// Bytes per second of the raw disks: both measurements taken together.
    fn raw_speed(&self, write: bool) -> Option<f64> {
        let count = self.raw(write).count();
        (count > 0).then(|| self.raw(write).map(Figures::speed).sum::<f64>() / count as f64)
    }

    /// The most bytes per second that the level allows on these disks; `None` if they could not be measured.
    fn limit(&self, price: &Price) -> Option<f64> {
        let time = |bytes: f64, write| match bytes > 0.0 {
            true => self.raw_speed(write).map(|speed| bytes / speed),
            false => Some(0.0),
        };
        Some(1.0 / (time(price.read, false)? + time(price.written, true)?))
    }

    fn ratio(&self, price: &Price) -> Option<f64> {
        self.limit(price).map(|limit| self.lu.speed() / limit)
    }

    /// In a line.
    pub(super) fn told(&self, price: &Price) -> String {
        let speed =
            format!("{}/s, {:.1}k requests/s", size::bytes(self.lu.speed() as u64), self.lu.iops() / 1e3);
        match self.ratio(price) {
            Some(ratio) => format!("{speed}, {ratio:.3} of the limit"),
            None => speed,
        }
    }
}

/// All that was measured.
pub(super) struct Report {
    pub(super) status: Status,
    pub(super) kind: &'static str,
    pub(super) work: Work,
    pub(super) price: Price,
    /// Of a run that was not timed: the operations, and the requests they were for.
    pub(super) counts: (Counts, Figures),
    pub(super) rounds: Vec<Round>,
}

#[derive(Serialize)]
struct Document<'a> {
    lu: LuFacts<'a>,
    load: LoadFacts<'a>,
    raw_read: Option<Speeds>,
    raw_write: Option<Speeds>,
    measured: Speeds,
    latency_ns: Latency,
    /// Of reads beside the rebuild that is measured.
    beside: Option<BesideFacts>,
    cpu_ns_per_request: f64,
    disk_operations_per_request: Operations,
    /// What the level's rules ask for.
    disk_bytes_per_byte: Price,
    limit_bytes_per_second: Option<f64>,
    ratio_to_limit: Option<Spread>,
    /// The time one request takes on the LU, over that on a raw disk; only where one request is one operation.
    layer_ns_per_request: Option<f64>,
}

#[derive(Serialize)]
struct LuFacts<'a> {
    name: &'a str,
    level: String,
    layout: &'a str,
    chunk_bytes: u64,
    policy: String,
    state: String,
    members: usize,
    disks: &'a str,
}

#[derive(Serialize)]
struct LoadFacts<'a> {
    rw: &'a str,
    bs: u64,
    depth: u16,
    threads: u16,
    runtime_ns: u64,
    rounds: usize,
}

/// Medians over the rounds, and how far they lie apart.
#[derive(Clone, Copy, Serialize)]
struct Speeds {
    bytes_per_second: Spread,
    requests_per_second: Spread,
}

#[derive(Clone, Copy, Serialize)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

#[derive(Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    p999: u64,
}

/// Random reads of 4 KiB, one at a time, without and with a rebuild under way.
#[derive(Serialize)]
struct BesideFacts {
    calm_latency_ns: Latency,
    rebuilding_latency_ns: Latency,
}

#[derive(Serialize)]
struct Operations {
    reads: f64,
    writes: f64,
    flushes: f64,
    read_bytes: f64,
    written_bytes: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        Some(Spread { median, least, most })
    }
}

impl Report {
    pub(super) fn show(&self, console: &Console) -> Outcome {
        let document = self.document();
        if console.is_json() {
            return console.document("bench", document);
        }
        console.text(self.table(&document))
    }

    fn document(&self) -> Document<'_> {
        let (counts, counted) = &self.counts;
        let per = |count: u64| count as f64 / counted.requests.max(1) as f64;
        let status = &self.status;
        let limits: Option<Vec<f64>> = self.rounds.iter().map(|round| round.limit(&self.price)).collect();
        let ratios: Option<Vec<f64>> = self.rounds.iter().map(|round| round.ratio(&self.price)).collect();
        Document {
            lu: LuFacts {
                name: &status.name,
                level: status.level.to_string(),
                layout: &status.layout,
                chunk_bytes: status.chunk_bytes,
                policy: status.policy.to_string(),
                state: status.state.to_string(),
                members: status.members.iter().filter(|member| member.slot.is_some()).count(),
                disks: self.kind,
            },
            load: LoadFacts {
                rw: name(self.work.rw),
                bs: self.work.bs,
                depth: self.work.depth,
                threads: self.work.threads,
                runtime_ns: self.work.runtime.as_nanos() as u64,
                rounds: self.rounds.len(),
            },
            raw_read: self.speeds(|round| round.raw(false).collect()),
            raw_write: self.speeds(|round| round.raw(true).collect()),
            measured: self.speeds(|round| vec![&round.lu]).unwrap_or(NOTHING),
            latency_ns: self.latency(|round| Some(&round.lu)),
            beside: self.rounds[0].beside.is_some().then(|| BesideFacts {
                calm_latency_ns: self.latency(|round| round.beside.as_ref().map(|beside| &beside.calm)),
                rebuilding_latency_ns: self
                    .latency(|round| round.beside.as_ref().map(|beside| &beside.rebuilding)),
            }),
            cpu_ns_per_request: median(self.rounds.iter().map(|round| round.lu.cpu_per_request())),
            disk_operations_per_request: Operations {
                reads: per(counts.reads),
                writes: per(counts.writes),
                flushes: per(counts.flushes),
                read_bytes: per(counts.read_bytes),
                written_bytes: per(counts.written_bytes),
            },
            disk_bytes_per_byte: self.price,
            limit_bytes_per_second: limits.map(median),
            ratio_to_limit: ratios.and_then(Spread::of),
            layer_ns_per_request: self.layer(),
        }
    }

    fn speeds<'a>(&'a self, of: impl Fn(&'a Round) -> Vec<&'a Figures>) -> Option<Speeds> {
        let figures: Vec<&Figures> = self.rounds.iter().flat_map(of).collect();
        Some(Speeds {
            bytes_per_second: Spread::of(figures.iter().map(|figures| figures.speed()))?,
            requests_per_second: Spread::of(figures.iter().map(|figures| figures.iops()))?,
        })
    }

    fn latency(&self, figures: impl Fn(&Round) -> Option<&Figures>) -> Latency {
        let at = |quantile: f64| {
            let of = |round| {
                let latency = figures(round)?.latency.as_ref()?;
                Some(latency.value_at_quantile(quantile) as f64)
            };
            median(self.rounds.iter().filter_map(of)) as u64
        };
        Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999) }
    }

    /// Nanoseconds of a thread's time that the LU adds to a request.
    fn layer(&self) -> Option<f64> {
        let writes = match (self.price.read, self.price.written) {
            (1.0, 0.0) => false,
            (0.0, 1.0) => true,
            _ => return None,
        };
        let (bs, threads) = (self.work.bs as f64, f64::from(self.work.threads));
        let added =
            |round: &Round| Some((1e9 / round.lu.iops() - 1e9 * bs / round.raw_speed(writes)?) * threads);
        let added: Option<Vec<f64>> = self.rounds.iter().map(added).collect();
        added.map(median)
    }

    fn table(&self, document: &Document<'_>) -> String {
        let Document { lu, load, measured, latency_ns: latency, .. } = document;
        let operations = &document.disk_operations_per_request;
        let mut text = format!(
            "{} of {} {} disks, {}, policy {}, {}: {} {}, depth {}, {} thread{}, {} rounds of {:?}\n",
            lu.level,
            lu.members,
            lu.disks,
            lu.layout,
            lu.policy,
            lu.state,
            load.rw,
            size::bytes(load.bs),
            load.depth,
            load.threads,
            if load.threads == 1 { "" } else { "s" },
            load.rounds,
            self.work.runtime,
        );
        let mut line = |what: &str, speeds: &Speeds| {
            let Speeds { bytes_per_second: bytes, requests_per_second: requests } = speeds;
            let spread = (requests.most - requests.least) / 2.0 / requests.median * 100.0;
            text += &format!(
                "  {what:<10} {:>12}/s {:>10.1}k requests/s  +-{spread:.0} %\n",
                size::bytes(bytes.median as u64),
                requests.median / 1e3
            );
        };
        document.raw_read.iter().for_each(|speeds| line("raw read", speeds));
        document.raw_write.iter().for_each(|speeds| line("raw write", speeds));
        line("LU", measured);
        text += &match (&document.limit_bytes_per_second, &document.ratio_to_limit) {
            (Some(limit), Some(ratio)) => format!(
                "  limit      {:>12}/s: the LU reaches {:.3} of it ({:.3} to {:.3})\n",
                size::bytes(*limit as u64),
                ratio.median,
                ratio.least,
                ratio.most
            ),
            _ => "  limit      unknown: the disks of an LU that exists are not written to\n".to_owned(),
        };
        let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        let mut times = |what: &str, latency: &Latency| {
            text += &format!(
                "  {what:<10} p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us\n",
                microseconds(latency.p50),
                microseconds(latency.p99),
                microseconds(latency.p999)
            );
        };
        match &document.beside {
            None => times("latency", latency),
            Some(BesideFacts { calm_latency_ns: calm, rebuilding_latency_ns: rebuilding }) => {
                times("reads", calm);
                times("meanwhile", rebuilding);
            }
        }
        text += &format!(
            "  {} {:.2} disk reads, {:.2} writes, {:.2} flushes; {:.0} ns of CPU",
            if document.beside.is_some() { "MiB       " } else { "request   " },
            operations.reads,
            operations.writes,
            operations.flushes,
            document.cpu_ns_per_request
        );
        if let Some(layer) = document.layer_ns_per_request {
            text += &format!("; {layer:.0} ns more than a raw disk's");
        }
        text + "\n"
    }
}

const NOTHING: Speeds = {
    let nothing = Spread { median: 0.0, least: 0.0, most: 0.0 };
    Speeds { bytes_per_second: nothing, requests_per_second: nothing }
};

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    Spread::of(values).map_or(0.0, |spread| spread.median)
}

fn name(pattern: Pattern) -> &'static str {
    match pattern {
        Pattern::Read => "read",
        Pattern::Write => "write",
        Pattern::Randread => "randread",
        Pattern::Randwrite => "randwrite",
        Pattern::Randrw => "randrw",
        Pattern::Rebuild => "rebuild",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn figures(speed: u64) -> Option<Figures> {
        Some(Figures {
            requests: speed / 4096,
            bytes: speed,
            elapsed: Duration::from_secs(1),
            ..Figures::default()
        })
    }

    fn round(read: u64, written: u64, lu: u64) -> Round {
        let raw = || RawFigures { read: figures(read), write: figures(written) };
        Round { raw: [raw(), raw()], lu: figures(lu).unwrap(), beside: None }
    }

    #[test]
    fn limits_are_those_of_the_level() {
        let limit = |read, written| round(400, 200, 0).limit(&Price { read, written }).unwrap();
        assert_eq!(limit(1.0, 0.0), 400.0, "a read");
        assert_eq!(limit(0.0, 2.0), 100.0, "two copies");
        assert!((limit(0.0, 4.0 / 3.0) - 150.0).abs() < 1e-9, "a full stripe of three and one");
        assert!((limit(2.0, 2.0) - 1.0 / (2.0 / 400.0 + 2.0 / 200.0)).abs() < 1e-9, "a small write");
        let unknown = {
            let raw = || RawFigures { read: figures(400), write: None };
            Round { raw: [raw(), raw()], lu: figures(1).unwrap(), beside: None }
        };
        assert!(unknown.limit(&Price { read: 2.0, written: 2.0 }).is_none());
        assert_eq!(unknown.limit(&Price { read: 1.0, written: 0.0 }), Some(400.0));
    }

    #[test]
    fn medians() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.least, spread.most), (2.0, 1.0, 3.0));
        assert_eq!(median([1.0, 2.0]), 1.5);
        assert!(Spread::of([]).is_none());
    }
}
