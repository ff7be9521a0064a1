from rwp_dist.base.urls import (
    joined,
    local_path,
    parent,
    scheme_of,
    shown,
    shown_text,
    shown_tree,
    with_login_of,
)


def test_paths_and_urls_are_told_apart(tmp_path):
    path = tmp_path / "a b:c.tar"
    assert local_path(path.as_uri()) == local_path(str(path)) == path
    for url, scheme in (("S3://bucket/x", "s3"), ("a+b://x", "a+b")):
        assert scheme_of(url) == scheme and local_path(url) is None
    assert scheme_of("C:/x") == scheme_of("a:b/c") == ""


def test_a_signature_is_not_shown():
    assert shown("https://me:secret@host/a.tar?sig=secret") == "https://host/a.tar"
    assert shown("/data/a?b") == "/data/a?b"
    assert shown("sftp://me:a@b@host/x") == "sftp://host/x"
    # Of these, neither is a secret.
    assert shown("abfs://container@account/x") == "abfs://container@account/x"
    assert shown("s3://bucket/what?.tar") == "s3://bucket/what?.tar"


def test_no_secret_is_left_in_a_text():
    for text, clean in (
        ("data.train=http://me:p,w'1@host/t?sig=a/b,c%3D", "data.train=http://host/t"),
        (
            "http://host/t?sig=a: no; see 'http://me@host/u?x'.",
            "http://host/t: no; see 'http://host/u'.",
        ),
        ("{http://me:p@host/t?sig=a: 0.5}", "{http://host/t: 0.5}"),
        ("from a@b, http://host/a, c@d", "from a@b, http://host/a, c@d"),
        ("http://[::1", "http://[::1"),
    ):
        assert shown_text(text) == clean
    assert shown_tree({"http://me:p@h/t": ["http://h/t?s=1", 2, None]}) == {
        "http://h/t": ["http://h/t", 2, None]
    }


def test_secrets_go_along_to_the_files_beside():
    for base, name, url in (
        ("http://me:p@h/t?s=1", "a.tar", "http://me:p@h/t/a.tar?s=1"),
        ("s3://bucket/t?", "a.tar", "s3://bucket/t?/a.tar"),
        ("/data/t?", "a.tar", "/data/t?/a.tar"),
    ):
        assert joined(base, name) == url and parent(url) == base
    base = "http://me:p@h/t?s=1"
    assert with_login_of("http://h/u/a.tar", base) == "http://me:p@h/u/a.tar?s=1"
    # Nobody else gets them.
    for url in ("http://other/a.tar", "https://h/a.tar", "http://h/a.tar?s=2", "/h/a.tar"):
        assert with_login_of(url, base) == url
    assert with_login_of("/a.tar", "/t") == "/a.tar"
