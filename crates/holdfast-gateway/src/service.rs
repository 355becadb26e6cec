//! The S3 operations that pgBackRest uses.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use holdfast_store::repository::{ObjectClass, classify};
use holdfast_store::{ObjectInfo, ObjectName, RepositoryPath, Store};
use md5::{Digest, Md5};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CommonPrefix, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag,
    GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput,
    ListObjectsV2Input, ListObjectsV2Output, Object, PutObjectInput, PutObjectOutput, StreamingBlob,
    Timestamp, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::access::Credentials;
use crate::listing::{self, Entry, Query};
use crate::reading::{self, plain_len};
use crate::refusal::{body_refusal, store_refusal};
use crate::repository::Repository;
use crate::uploads::Uploads;
use crate::watch::{detached, watched};
use crate::writing::{SealedWrite, collect_body};
use crate::{BUCKET, MAX_BUSY_WRITES, MAX_PART_BYTES, info};

/// A body that brings no byte for so long is given up (R22).
const BODY_SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// Entries in one page of a listing, as in S3.
const MAX_KEYS: usize = 1000;

pub(crate) struct SealingService {
    store: Store,
    credentials: Credentials,
    uploads: Arc<Uploads>,
    busy_writes: Semaphore,
}

impl SealingService {
    pub(crate) fn new(store: Store, credentials: Credentials, uploads: Arc<Uploads>) -> Self {
        Self { store, credentials, uploads, busy_writes: Semaphore::new(MAX_BUSY_WRITES) }
    }

    /// The repository that the request's credential sees.
    fn repository<T>(&self, request: &S3Request<T>) -> S3Result<Arc<Repository>> {
        let credentials = request.credentials.as_ref().ok_or_else(|| s3_error!(AccessDenied))?;
        self.credentials.get(&credentials.access_key).ok_or_else(|| s3_error!(InvalidAccessKeyId))
    }

    async fn permit(&self) -> SemaphorePermit<'_> {
        self.busy_writes.acquire().await.expect("the semaphore is never closed")
    }

    async fn delete(&self, repository: &Repository, key: &str) -> S3Result<()> {
        let path = path(key)?;
        let lineage = repository.scope();
        let class = classify(path.as_str());
        if !repository.keys.may_delete(&class) {
            // The tool also removes what was never there (a link to its newest backup): that is no removal.
            return match self.store.head(&ObjectName::Repository { lineage, path }).await {
                Err(error)
                    if error.kind() == holdfast_store::ErrorKind::NotFound && class != ObjectClass::Info =>
                {
                    Ok(())
                }
                Err(error) if error.kind() != holdfast_store::ErrorKind::NotFound => {
                    Err(store_refusal(&error))
                }
                _ => Err(s3_error!(AccessDenied, "this may not be removed now")),
            };
        }
        let deleted = if class == ObjectClass::Info {
            info::remove_below(&self.store, lineage, &path, u64::MAX).await
        } else {
            self.store.delete(&ObjectName::Repository { lineage, path }).await
        };
        deleted.map_err(|error| store_refusal(&error))?;
        repository.events.deleted(key.strip_prefix('/').unwrap_or(key));
        Ok(())
    }
}

#[async_trait::async_trait]
impl S3 for SealingService {
    async fn head_bucket(&self, _: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let repository = self.repository(&request)?;
        let path = path(&request.input.key)?;
        let _permit = self.permit().await;
        let mut body = checked_body(request.input.body, request.input.content_md5.as_deref())?;
        let written = async {
            let begun = SealedWrite::begin(self.store.clone(), Arc::clone(&repository), path.clone());
            let mut write = Box::new(begun.await?);
            while let Some(piece) = body.next().await {
                write.update(&piece?).await?;
            }
            detached(async move { write.finish().await }).await
        };
        let object = watched(&repository, path.as_str(), written).await?;
        let e_tag = Some(ETag::Strong(object.sha256));
        Ok(S3Response::new(PutObjectOutput { e_tag, ..PutObjectOutput::default() }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let repository = self.repository(&request)?;
        let key = request.input.key;
        let path = path(&key)?;
        let access_key = repository.access_key.clone();
        let write = SealedWrite::begin(self.store.clone(), repository, path).await?;
        let upload_id = self.uploads.open(&access_key, &key, write)?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(BUCKET.to_owned()),
            key: Some(key),
            upload_id: Some(upload_id),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let repository = self.repository(&request)?;
        let input = request.input;
        let upload = self.uploads.get(&repository.access_key, &input.key, &input.upload_id)?;
        let _permit = self.permit().await;
        let body = checked_body(input.body, input.content_md5.as_deref())?;
        let body = collect_body(body, MAX_PART_BYTES).await?;
        let number = usize::try_from(input.part_number).map_err(|_| s3_error!(InvalidPart))?;
        let added = detached(async move { upload.add_part(number, body).await });
        let tag = watched(&repository, &input.key, added).await?;
        let e_tag = Some(ETag::Strong(tag));
        Ok(S3Response::new(UploadPartOutput { e_tag, ..UploadPartOutput::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let repository = self.repository(&request)?;
        let input = request.input;
        let upload = self.uploads.get(&repository.access_key, &input.key, &input.upload_id)?;
        let parts = input.multipart_upload.and_then(|list| list.parts).unwrap_or_default();
        let mut tags = Vec::with_capacity(parts.len());
        for part in parts {
            let number = part.part_number.and_then(|number| usize::try_from(number).ok());
            let tag = part.e_tag.map(|tag| tag.value().to_owned());
            tags.push(number.zip(tag).ok_or_else(|| s3_error!(InvalidPart))?);
        }
        let completed = detached(async move { upload.complete(&tags).await });
        let object = watched(&repository, &input.key, completed).await?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(BUCKET.to_owned()),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(object.sha256)),
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let repository = self.repository(&request)?;
        let input = request.input;
        self.uploads.get(&repository.access_key, &input.key, &input.upload_id)?;
        self.uploads.remove(&input.upload_id);
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let repository = self.repository(&request)?;
        let path = path(&request.input.key)?;
        let asked = request.input.range;
        let choose = asked.map(|range| move |length: u64| range.check(length).ok());
        let choose = choose.as_ref().map(|choose| choose as &(dyn Fn(u64) -> Option<_> + Sync));
        let opened = reading::open(&self.store, &repository, &path, choose);
        let opened = watched(&repository, path.as_str(), opened).await?;
        let range = opened.range.clone();
        let content_range = asked
            .is_some()
            .then(|| format!("bytes {}-{}/{}", range.start, range.end - 1, opened.plain_len()));
        let info = opened.info.clone();
        let body = reading::into_body(opened, repository, path);
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body: Some(body),
            content_length: Some(length(range.end - range.start)?),
            content_range,
            e_tag: e_tag(&info),
            last_modified: Some(last_modified(&info)),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let repository = self.repository(&request)?;
        let path = path(&request.input.key)?;
        let (name, info) =
            reading::locate(&self.store, &repository, &path).await.map_err(|error| store_refusal(&error))?;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(length(plain_len(&name, &info))?),
            e_tag: e_tag(&info),
            last_modified: Some(last_modified(&info)),
            ..HeadObjectOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let repository = self.repository(&request)?;
        let input = request.input;
        let by_folder = match input.delimiter.as_deref() {
            None | Some("") => false,
            Some("/") => true,
            Some(_) => return Err(s3_error!(InvalidArgument, "the delimiter is /")),
        };
        let start_after = match input.start_after.as_deref() {
            None | Some("") => None,
            Some(key) => Some(path(key)?.to_string()),
        };
        let limit = input.max_keys.map_or(MAX_KEYS, |keys| usize::try_from(keys).unwrap_or(0).min(MAX_KEYS));
        let query = Query {
            prefix: input.prefix.as_deref().unwrap_or_default(),
            by_folder,
            after: input.continuation_token.as_deref().or(start_after.as_deref()),
            limit,
        };
        let page = if limit == 0 {
            listing::Page { entries: Vec::new(), next: None }
        } else {
            let listed = async {
                listing::list(&self.store, &repository, &query).await.map_err(|error| store_refusal(&error))
            };
            watched(&repository, query.prefix, listed).await?
        };
        let key_count = i32::try_from(page.entries.len()).ok();
        let (mut contents, mut common_prefixes) = (Vec::new(), Vec::new());
        for entry in page.entries {
            match entry {
                Entry::Folder { key } => common_prefixes.push(CommonPrefix { prefix: Some(key) }),
                Entry::File { key, plain_bytes, info } => contents.push(Object {
                    e_tag: e_tag(&info),
                    key: Some(key),
                    last_modified: Some(last_modified(&info)),
                    size: Some(length(plain_bytes)?),
                    ..Object::default()
                }),
            }
        }
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(BUCKET.to_owned()),
            prefix: input.prefix,
            delimiter: input.delimiter,
            max_keys: i32::try_from(limit).ok(),
            key_count,
            is_truncated: Some(page.next.is_some()),
            continuation_token: input.continuation_token,
            next_continuation_token: page.next,
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let repository = self.repository(&request)?;
        self.delete(&repository, &request.input.key).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let repository = self.repository(&request)?;
        let delete = request.input.delete;
        if delete.objects.len() > MAX_KEYS {
            return Err(s3_error!(MalformedXML, "at most {MAX_KEYS} objects are deleted at once"));
        }
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in delete.objects {
            match self.delete(&repository, &object.key).await {
                Ok(()) => deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() }),
                Err(error) => errors.push(s3s::dto::Error {
                    code: Some(error.code().as_str().to_owned()),
                    key: Some(object.key),
                    message: error.message().map(str::to_owned),
                    version_id: None,
                }),
            }
        }
        let deleted = (!delete.quiet.unwrap_or(false)).then_some(deleted);
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted,
            errors: Some(errors),
            ..DeleteObjectsOutput::default()
        }))
    }
}

fn path(key: &str) -> S3Result<RepositoryPath> {
    RepositoryPath::new(key).map_err(|error| s3_error!(InvalidArgument, "{error}"))
}

/// The body's pieces; the last one comes only if the body was whole, what was signed (`s3s` checks that) and what its
/// Content-MD5 says (`s3s` does not).
fn checked_body(
    body: Option<StreamingBlob>,
    content_md5: Option<&str>,
) -> S3Result<impl Stream<Item = S3Result<Bytes>> + Send + Unpin> {
    let expected = match content_md5 {
        None => None,
        Some(text) => {
            let digest = base64::engine::general_purpose::STANDARD.decode(text);
            Some(digest.ok().filter(|digest| digest.len() == 16).ok_or_else(|| s3_error!(InvalidDigest))?)
        }
    };
    let state = Some((body, Md5::new(), expected));
    Ok(Box::pin(futures::stream::unfold(state, |state| async move {
        let (mut body, mut hasher, expected) = state?;
        let next = match &mut body {
            Some(body) => tokio::time::timeout(BODY_SILENCE_LIMIT, body.next()).await,
            None => Ok(None),
        };
        match next {
            Err(_) => Some((Err(s3_error!(RequestTimeout)), None)),
            Ok(Some(Err(error))) => Some((Err(body_refusal(error.as_ref())), None)),
            Ok(Some(Ok(piece))) => {
                if expected.is_some() {
                    hasher.update(&piece);
                }
                Some((Ok(piece), Some((body, hasher, expected))))
            }
            Ok(None) => {
                let wrong = expected.is_some_and(|expected| hasher.finalize()[..] != expected[..]);
                wrong.then(|| (Err(s3_error!(BadDigest, "the body is not what its Content-MD5 says")), None))
            }
        }
    })))
}

fn length(bytes: u64) -> S3Result<i64> {
    i64::try_from(bytes).map_err(|error| s3_error!(error, InternalError))
}

fn e_tag(info: &ObjectInfo) -> Option<ETag> {
    let text = info.etag.as_deref()?;
    Some(ETag::Strong(text.trim_start_matches("W/").trim_matches('"').to_owned()))
}

fn last_modified(info: &ObjectInfo) -> Timestamp {
    Timestamp::from(SystemTime::from(info.modified_at))
}
