//! Embeds the migrations anew when one was added: `migrate!` alone does not notice.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
