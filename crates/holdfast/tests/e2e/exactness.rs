//! A restore holds exactly what clients were told was committed at the restore point: nothing lost, nothing extra. Here on
//! the local store; `s3/exact.rs` runs the same scenario on S3.

use anyhow::Result;
use holdfast_testkit::exactness::{self, Scale};
use holdfast_testkit::{Holdfast, holdfast, seed};

use crate::BINARY;

#[tokio::test(flavor = "multi_thread")]
async fn restores_are_exact_at_any_instant() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let mut random = seed::generator("restores_are_exact_at_any_instant");
    let holdfast = Holdfast::start(BINARY, "exactness").await?;
    let soaks = std::env::var("HOLDFAST_SOAK").as_deref() == Ok("1");
    let scale = if soaks { Scale::FULL } else { Scale { thorough: true, ..Scale::SHORT } };
    exactness::run(&holdfast.client(), &mut random, scale, || {}).await
}
