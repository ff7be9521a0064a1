from rwp_dist.base.urls import local_path, scheme_of, shown


def test_paths_and_urls_are_told_apart(tmp_path):
    path = tmp_path / "a b:c.tar"
    assert local_path(path.as_uri()) == local_path(str(path)) == path
    for url, scheme in (("S3://bucket/x", "s3"), ("a+b://x", "a+b")):
        assert scheme_of(url) == scheme and local_path(url) is None
    assert scheme_of("C:/x") == scheme_of("a:b/c") == ""


def test_a_signature_is_not_shown():
    assert shown("https://me:secret@host/a.tar?sig=secret") == "https://host/a.tar"
    assert shown("/data/a?b") == "/data/a?b"
