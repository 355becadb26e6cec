//! Coverage only grows, whatever the order of reports; what was trimmed stays trimmed.

use std::collections::BTreeMap;

use holdfast_catalog::ErrorKind;
use holdfast_core::LineageId;
use holdfast_core::position::{Coverage, Gap, Position};
use proptest::prelude::*;

use crate::fixture::{Fixture, at};

fn position(timeline: u32, offset: u64) -> Position {
    Position { timeline, offset }
}

fn stretch(timeline: u32, from: u64, to: u64, complete: Option<i64>) -> Coverage {
    Coverage { from: position(timeline, from), to: position(timeline, to), complete_until: complete.map(at) }
}

#[tokio::test]
async fn a_late_or_repeated_report_never_shrinks_a_stretch() {
    let fixture = Fixture::new().await;
    let lineage = LineageId::random();
    let reports: [(Coverage, Coverage); 5] = [
        (stretch(1, 100, 200, None), stretch(1, 100, 200, None)),
        (stretch(1, 100, 300, Some(5)), stretch(1, 100, 300, Some(5))),
        (stretch(1, 100, 250, Some(3)), stretch(1, 100, 300, Some(5))),
        (stretch(1, 100, 300, None), stretch(1, 100, 300, Some(5))),
        (stretch(1, 100, 280, Some(9)), stretch(1, 100, 300, Some(9))),
    ];
    for (report, expected) in reports {
        fixture.catalog.upsert_coverage(lineage, &report).await.unwrap();
        assert_eq!(fixture.catalog.coverage_of(lineage).await.unwrap(), [expected], "after {report:?}");
    }
    assert!(fixture.catalog.coverage_of(LineageId::random()).await.unwrap().is_empty());
    for bad in [stretch(1, 10, 9, None), Coverage { to: position(2, 20), ..stretch(1, 10, 20, None) }] {
        let error = fixture.catalog.upsert_coverage(lineage, &bad).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{bad:?}");
        // One that is wrong, and nothing of what was told with it.
        let good = stretch(1, 100, 400, Some(10));
        let all = [(lineage, good), (lineage, bad.clone())];
        let error = fixture.catalog.upsert_all_coverage(&all).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{bad:?}");
    }
    assert_eq!(fixture.catalog.coverage_of(lineage).await.unwrap(), [stretch(1, 100, 300, Some(9))]);
}

#[tokio::test]
async fn what_was_trimmed_does_not_come_back() {
    let mut fixture = Fixture::new().await;
    let lineage = LineageId::random();
    fixture.catalog.upsert_coverage(lineage, &stretch(1, 100, 300, Some(5))).await.unwrap();
    fixture.catalog.upsert_coverage(lineage, &stretch(2, 300, 400, Some(6))).await.unwrap();
    fixture.catalog.trim_coverage(lineage, position(1, 200)).await.unwrap();
    fixture.crash().await;
    let catalog = &fixture.catalog;
    let second = stretch(2, 300, 400, Some(6));
    assert_eq!(catalog.coverage_of(lineage).await.unwrap(), [stretch(1, 200, 300, Some(5)), second.clone()]);

    // Known by its first beginning and by what was left of it: one stretch all the same.
    catalog.upsert_coverage(lineage, &stretch(1, 100, 320, Some(7))).await.unwrap();
    catalog.upsert_coverage(lineage, &stretch(1, 200, 350, Some(8))).await.unwrap();
    assert_eq!(catalog.coverage_of(lineage).await.unwrap(), [stretch(1, 200, 350, Some(8)), second.clone()]);

    catalog.trim_coverage(lineage, position(1, u64::MAX)).await.unwrap();
    catalog.upsert_coverage(lineage, &stretch(1, 100, 360, Some(9))).await.unwrap();
    assert_eq!(catalog.coverage_of(lineage).await.unwrap(), [second]);
}

#[tokio::test]
async fn gaps_stay_and_so_does_their_acknowledgement() {
    let fixture = Fixture::new().await;
    let catalog = &fixture.catalog;
    let lineage = LineageId::random();
    let gap = Gap {
        from: position(1, 100),
        to: position(2, 50),
        from_time: at(1),
        to_time: at(2),
        cause: "the log volume was full".to_owned(),
        acknowledged: false,
    };
    catalog.insert_gap(lineage, &gap).await.unwrap();
    catalog.acknowledge_gap(lineage, gap.from, gap.to).await.unwrap();
    catalog.insert_gap(lineage, &gap).await.unwrap();
    assert_eq!(catalog.gaps_of(lineage).await.unwrap(), [Gap { acknowledged: true, ..gap.clone() }]);
    let nobody = catalog.acknowledge_gap(LineageId::random(), gap.from, gap.to).await;
    assert_eq!(nobody.unwrap_err().kind(), ErrorKind::NotFound);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: Some(Box::new(proptest::test_runner::FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    /// Reports of several stretches in any order end where the greatest of each would have led, and no answer on the
    /// way is smaller than one before.
    #[test]
    fn any_order_of_reports_ends_at_the_greatest(
        reports in prop::collection::vec((1..3_u32, 0..3_u64, 0..50_u64, prop::option::of(0..50_i64)), 1..20)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new().await;
            let lineage = LineageId::random();
            let mut greatest: BTreeMap<(u32, u64), (u64, Option<i64>)> = BTreeMap::new();
            for (timeline, block, length, complete) in reports {
                let (from, to) = (block * 100, block * 100 + 1 + length);
                fixture.catalog.upsert_coverage(lineage, &stretch(timeline, from, to, complete)).await.unwrap();
                let entry = greatest.entry((timeline, from)).or_insert((to, complete));
                *entry = (entry.0.max(to), entry.1.max(complete));
                let expected: Vec<Coverage> =
                    greatest.iter().map(|((t, from), (to, c))| stretch(*t, *from, *to, *c)).collect();
                assert_eq!(fixture.catalog.coverage_of(lineage).await.unwrap(), expected);
            }
        });
    }
}
