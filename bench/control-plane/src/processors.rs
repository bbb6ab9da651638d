//! Processor time, as the kernel counts it.
//!
//! Enters: a process, or the whole machine. Leaves: what it used, and what a hypervisor gave to others meanwhile. Never: a figure of another
//! system than Linux.

use anyhow::Context as _;
use std::time::Duration;

/// Processor time of a process so far; `self` is this one.
pub fn processor(process: &str) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let fields = after.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    // The kernel reports hundredths of a second on every architecture that matters here.
    Ok(Duration::from_millis(ticks * 10))
}

/// Ticks of all processors since the machine started, and those of them that a hypervisor gave to another guest.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    all: u64,
    stolen: u64,
}

impl Machine {
    /// Now.
    pub fn now() -> anyhow::Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        // User, nice, system, idle, waiting, interrupts, soft interrupts, stolen; guests are in the first.
        let ticks: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .take(8)
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        Ok(Self {
            all: ticks.iter().sum(),
            stolen: ticks.get(7).copied().unwrap_or(0),
        })
    }

    /// Percent of all processors that was given away since then.
    pub fn stolen_percent(self) -> anyhow::Result<f64> {
        let now = Self::now()?;
        let all = (now.all - self.all).max(1) as f64;
        Ok((now.stolen - self.stolen) as f64 * 100.0 / all)
    }
}
