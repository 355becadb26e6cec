//! An S3 server large enough for the large database, with TLS beside plain HTTP: pgBackRest speaks S3 over TLS only. (The
//! tests' server in holdfast-testkit is small.)

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub(crate) const BUCKET: &str = "bench";
const KEY: &str = "bench";
const SECRET: &str = "bench-secret-key";

pub(crate) struct Server {
    child: Child,
    pub(crate) http: u16,
    pub(crate) https: u16,
    folder: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start(engines: &Path, below: &Path) -> Result<Self> {
        let folder = tempfile::tempdir_in(below)?;
        let at = |name: &str| folder.path().join(name).display().to_string();
        let identities = format!(
            r#"{{"identities":[{{"name":"bench","credentials":[{{"accessKey":"{KEY}","secretKey":"{SECRET}"}}],
            "actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
        );
        std::fs::write(at("s3.json"), identities)?;
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        std::fs::write(at("s3.crt"), certificate.cert.pem())?;
        std::fs::write(at("s3.key"), certificate.signing_key.serialize_pem())?;
        for name in ["data", "logs"] {
            std::fs::create_dir(at(name))?;
        }
        let listeners =
            (0..9).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<Vec<_>>>()?;
        let ports = listeners.iter().map(|listener| Ok(listener.local_addr()?.port()));
        let ports = ports.collect::<std::io::Result<Vec<u16>>>()?;
        drop(listeners);
        let weed = engines.join("seaweedfs/bin/weed");
        let child = Command::new(&weed)
            .arg(format!("-logdir={}", at("logs")))
            .args([
                "server",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-master.telemetry=false",
                "-filer",
                "-s3",
            ])
            .args([format!("-dir={}", at("data")), format!("-s3.config={}", at("s3.json"))])
            .args([
                "-volume.max=200",
                "-master.volumeSizeLimitMB=256",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
            ])
            .args([format!("-filer.localSocket={}", at("filer")), format!("-s3.localSocket={}", at("s3"))])
            .args([format!("-master.port={}", ports[0]), format!("-master.port.grpc={}", ports[1])])
            .args([format!("-volume.port={}", ports[2]), format!("-volume.port.grpc={}", ports[3])])
            .args([format!("-filer.port={}", ports[4]), format!("-filer.port.grpc={}", ports[5])])
            .args([format!("-s3.port={}", ports[6]), format!("-s3.port.grpc={}", ports[7])])
            .args([format!("-s3.port.https={}", ports[8])])
            .args([format!("-s3.cert.file={}", at("s3.crt")), format!("-s3.key.file={}", at("s3.key"))])
            .env("WEED_S3_SSE_KEK", "0123456789abcdef".repeat(4))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}; run `make engines`", weed.display()))?;
        let server = Self { child, http: ports[6], https: ports[8], folder };
        server.make_bucket(&weed, &format!("127.0.0.1:{}.{}", ports[0], ports[1])).await?;
        for port in [server.http, server.https] {
            holdfast_testkit::wait_for("the S3 server listens", 30, || async {
                Ok(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop))
            })
            .await?;
        }
        Ok(server)
    }

    async fn make_bucket(&self, weed: &Path, master: &str) -> Result<()> {
        let script = self.folder.path().join("script");
        std::fs::write(&script, format!("s3.bucket.create -name {BUCKET}\ns3.bucket.list\nexit\n"))?;
        for _ in 0..60 {
            let mut shell = Command::new(weed);
            shell.args(["shell", &format!("-master={master}")]).stdin(std::fs::File::open(&script)?);
            shell.stderr(Stdio::null());
            let said = tokio::task::spawn_blocking(move || shell.output()).await??;
            if String::from_utf8_lossy(&said.stdout).matches(BUCKET).count() > 1 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        ensure!(false, "the S3 server makes no bucket");
        Ok(())
    }

    /// What Holdfast needs in its environment.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let rows = [
            ("HOLDFAST_STORE_URL", format!("s3://{BUCKET}/holdfast")),
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.http)),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ];
        rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    pub(crate) fn repository(&self) -> crate::alone::Repository<'static> {
        crate::alone::Repository::S3 { port: self.https, bucket: BUCKET, key: KEY, secret: SECRET }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
