//! Service plans: what a `plan_name` means in processors, memory and connections.

/// A size tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServicePlan {
    pub name: &'static str,
    pub cpus: u32,
    pub memory_mib: u64,
}

impl ServicePlan {
    /// Connections that the engine admits: 50 a GiB, at least 50 and at most 1000.
    #[must_use]
    pub fn max_connections(self) -> u32 {
        u32::try_from(self.memory_mib * 50 / 1024).unwrap_or(1000).clamp(50, 1000)
    }
}

/// Sizes of the hosted platform's documentation where it names the tier, of the Terraform provider's text elsewhere
/// (contract, section 10); tiers that neither names follow their neighbour below.
const PLANS: [ServicePlan; 16] = {
    const fn tier(name: &'static str, cpus: u32, memory_gib: u64) -> ServicePlan {
        ServicePlan { name, cpus, memory_mib: memory_gib * 1024 }
    }
    [
        tier("tier-1", 1, 2),
        tier("tier-2", 2, 4),
        tier("tier-3", 2, 8),
        tier("tier-4", 4, 8),
        tier("tier-5", 4, 8),
        tier("tier-6", 4, 8),
        tier("tier-7", 4, 8),
        tier("tier-8", 8, 16),
        tier("tier-9", 8, 16),
        tier("tier-10", 8, 16),
        tier("tier-11", 8, 16),
        tier("tier-12", 8, 16),
        tier("tier-13", 8, 16),
        tier("tier-14", 8, 16),
        tier("tier-15", 8, 16),
        tier("tier-16", 16, 32),
    ]
};

/// The plan of that exact name.
#[must_use]
pub fn plan(name: &str) -> Option<ServicePlan> {
    PLANS.into_iter().find(|plan| plan.name == name)
}

/// All plans, smallest first.
#[must_use]
pub fn plans() -> &'static [ServicePlan] {
    &PLANS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_never_shrink_and_are_named_in_order() {
        for (index, pair) in plans().windows(2).enumerate() {
            assert_eq!(pair[0].name, format!("tier-{}", index + 1));
            assert!(pair[0].cpus <= pair[1].cpus, "{pair:?}");
            assert!(pair[0].memory_mib <= pair[1].memory_mib, "{pair:?}");
            assert!(pair[0].max_connections() <= pair[1].max_connections(), "{pair:?}");
        }
        assert_eq!(plans().len(), 16);
    }

    #[test]
    fn a_plan_is_found_by_its_exact_name_alone() {
        for known in plans() {
            assert_eq!(plan(known.name), Some(*known));
        }
        assert_eq!(plan("tier-17"), None);
        assert_eq!(plan("TIER-1"), None);
    }

    #[test]
    fn connections_follow_memory_within_bounds() {
        let of = |memory_mib| ServicePlan { name: "x", cpus: 1, memory_mib }.max_connections();
        assert_eq!([of(0), of(1024), of(2048), of(8192), of(20 * 1024)], [50, 50, 100, 400, 1000]);
        assert_eq!([of(20 * 1024 - 21), of(1 << 40)], [998, 1000]);
    }
}
