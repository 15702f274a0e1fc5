//! What nodes that run at the same time take of the machine: cores, memory, devices.
//! Knows nothing of plans, nor of what the nodes do.

use std::collections::BTreeSet;

use serde_json::Value;

/// What is free.
#[derive(Debug)]
pub(super) struct Room {
    cores: u64,
    memory_gb: f64,
    /// The devices in use.
    taken: BTreeSet<String>,
    all_cores: u64,
    all_memory_gb: f64,
}

/// What one node takes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Claim {
    cores: u64,
    memory_gb: f64,
    device: Option<String>,
}

impl Room {
    pub fn new(cores: u64) -> Self {
        let memory_gb = memory_gb();
        Self { cores, memory_gb, taken: BTreeSet::new(), all_cores: cores, all_memory_gb: memory_gb }
    }

    /// What a node with these settings takes: what it says, in `cores`, `memory_gb` and `device`. One that says no
    /// cores takes all of them, since the stages of this program use all there are, but one on a device of its
    /// own takes one. Nothing takes more than there is: such a node runs alone.
    pub fn claim(&self, settings: &Value) -> Claim {
        let device = settings["device"].as_str().filter(|device| *device != "cpu").map(str::to_owned);
        let unsaid = if device.is_some() { 1 } else { self.all_cores };
        let cores = settings["cores"].as_u64().unwrap_or(unsaid).clamp(1, self.all_cores);
        let memory_gb = settings["memory_gb"].as_f64().unwrap_or(0.0).clamp(0.0, self.all_memory_gb);
        Claim { cores, memory_gb, device }
    }

    pub fn fits(&self, claim: &Claim) -> bool {
        let device_is_free = claim.device.as_ref().is_none_or(|device| !self.taken.contains(device));
        device_is_free && claim.cores <= self.cores && claim.memory_gb <= self.memory_gb
    }

    pub fn take(&mut self, claim: &Claim) {
        self.cores -= claim.cores;
        self.memory_gb -= claim.memory_gb;
        self.taken.extend(claim.device.clone());
    }

    pub fn give_back(&mut self, claim: &Claim) {
        self.cores += claim.cores;
        self.memory_gb += claim.memory_gb;
        if self.cores == self.all_cores {
            // Sums of fractions are not exact.
            self.memory_gb = self.all_memory_gb;
        }
        if let Some(device) = &claim.device {
            self.taken.remove(device);
        }
    }
}

/// All memory of the machine; without end where nobody says.
fn memory_gb() -> f64 {
    let total = || {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    total().map_or(f64::INFINITY, |kilobytes| kilobytes * 1_024.0 / 1e9)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A machine with 8 cores and 100 GB.
    fn room() -> Room {
        Room { cores: 8, memory_gb: 100.0, taken: BTreeSet::new(), all_cores: 8, all_memory_gb: 100.0 }
    }

    /// Can nodes with these settings run at the same time?
    fn fit_together(all: &[Value]) -> bool {
        let mut room = room();
        all.iter().all(|settings| {
            let claim = room.claim(settings);
            let fits = room.fits(&claim);
            if fits {
                room.take(&claim);
            }
            fits
        })
    }

    #[test]
    fn cores_memory_and_devices_are_counted() {
        let cases = [
            (vec![json!({"cores": 4}), json!({"cores": 4})], true),
            (vec![json!({"cores": 4}), json!({"cores": 5})], false),
            (vec![json!({"cores": 1}), json!({})], false),
            (vec![json!({"device": "cpu"}), json!({"device": "cpu"})], false),
            (vec![json!({"device": "cuda:0"}), json!({"device": "cuda:1"}), json!({"cores": 6})], true),
            (vec![json!({"device": "cuda:0"}), json!({"device": "cuda:0"})], false),
            (vec![json!({"cores": 1, "memory_gb": 60}), json!({"cores": 1, "memory_gb": 40})], true),
            (vec![json!({"cores": 1, "memory_gb": 60}), json!({"cores": 1, "memory_gb": 40.5})], false),
            (vec![json!({"cores": 64, "memory_gb": 1e6})], true),
        ];
        for (settings, fit) in cases {
            assert_eq!(fit_together(&settings), fit, "{settings:?}");
        }
    }

    #[test]
    fn what_was_taken_is_there_again() {
        let mut room = room();
        let [first, second] = [json!({"cores": 3, "memory_gb": 0.1}), json!({"device": "cuda:0", "memory_gb": 0.2})]
            .map(|settings| {
                let claim = room.claim(&settings);
                room.take(&claim);
                claim
            });
        room.give_back(&second);
        room.give_back(&first);
        let all = room.claim(&json!({"memory_gb": 100, "device": "cuda:0", "cores": 8}));
        assert!(room.fits(&all));
    }
}
