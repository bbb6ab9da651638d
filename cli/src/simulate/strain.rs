//! Services that a zone's loss would overload.
//!
//! Enters: a world and a load. Leaves: a finding for each Service whose endpoints could not serve what they would get. Never: a finding about a
//! Service of which nobody says what its pods can serve.

use super::Each;
use super::ask::{self, Asked, Load};
use super::{table, town};
use crate::world::World;
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;
use weft_control_plane::mesh::Diagnostic;
use weft_engine::simulate::{self, Failure, Group, How, Options, What};
use weft_proto::model::ServiceName;

/// As full as endpoints may be.
const FULL: f64 = 1.0;
/// Requests of each load that are played.
const PLAYED: u32 = 5_000;

/// A load, said on a command line.
#[derive(Args, Debug)]
pub struct Told {
    /// Requests per second, as for `weft simulate`: then what a zone's loss would overload is found too
    #[arg(long, value_name = "[FROM->]SERVICE=RATE", value_parser = ask::load, requires = "file")]
    load: Vec<Load>,
    /// Load, edges and capacities from a file, as for `weft simulate`
    #[arg(long, value_name = "FILE", requires = "file")]
    load_file: Option<PathBuf>,
}

impl Told {
    /// What was said, if anything was.
    ///
    /// # Errors
    /// A file that can't be read.
    pub fn asked(&self) -> anyhow::Result<Option<Asked>> {
        let mut asked = Asked {
            loads: self.load.clone(),
            ..Asked::default()
        };
        if let Some(file) = &self.load_file {
            asked.read(file)?;
        }
        Ok((!asked.loads.is_empty()).then_some(asked))
    }
}

/// What the loss of each single zone would overload, the worst zone of each Service only; and what is overloaded as it is.
///
/// # Errors
/// A load that names what isn't there.
pub fn findings(world: &World, asked: &Asked) -> anyhow::Result<Vec<Diagnostic>> {
    let built = town::build(world, asked)?;
    let mut worst: BTreeMap<ServiceName, (f64, String)> = BTreeMap::new();
    let zones = town::places(&built.town, Each::Zone).into_iter().map(|zone| {
        let down = Failure {
            what: What::Zone(zone.clone()),
            how: How::Down,
        };
        (format!("when zone {zone} is gone, "), vec![down])
    });
    let options = Options {
        requests: PLAYED,
        ..Options::default()
    };
    let none = (String::new(), Vec::new());
    for (when, failures) in std::iter::once(none).chain(zones) {
        let prediction = simulate::run(&built.town, &failures, &options)?;
        for service in &prediction.settled.services {
            let known = service.groups.iter().filter(|group| group.capacity.is_some());
            let load = |group: &&Group| group.load.unwrap_or_default();
            let Some(fullest) = known.max_by(|a, b| load(a).total_cmp(&load(b))) else {
                continue;
            };
            let load = load(&fullest);
            let before = worst.get(&service.name).map_or(FULL, |(load, _)| *load);
            if load > before {
                let reason = format!(
                    "{when}its endpoints in {} get {:.0} requests/s, {:.0}% of what they can serve",
                    table::place(&(fullest.region.clone(), fullest.zone.clone())),
                    fullest.rate,
                    load * 100.0
                );
                worst.insert(service.name.clone(), (load, reason));
            }
        }
    }
    let about = |(name, (_, reason)): (ServiceName, (f64, String))| {
        let service = world.mesh.services.get(&name)?;
        let finding = Diagnostic::warning("service-overloaded", &service.origin).because(reason);
        Some(finding.so(
            "run more pods of it, or spread them better; `weft simulate --each zone` tells the whole story",
        ))
    };
    Ok(worst.into_iter().filter_map(about).collect())
}
