"""Small PDFs, written by hand."""

from __future__ import annotations

from functools import cache

from fuzz.media.pictures import Sample

_TEXT = b"BT /F1 24 Tf 10 60 Td (Hello) Tj ET 1 0 0 rg 10 10 40 30 re f"


@cache
def pages() -> tuple[Sample, ...]:
    """Returns PDFs of one page, several pages, and with what a hostile one would hold."""
    script = b"/OpenAction << /S /JavaScript /JS (app.launchURL('http://127.0.0.1/')) >>"
    launch = b"/OpenAction << /S /Launch /F ({elsewhere}/secret.txt) >>"
    return (
        Sample("pdf", ".pdf", write_pdf()),
        Sample("pdf pages", ".pdf", write_pdf(count=3)),
        Sample("pdf script", ".pdf", write_pdf(catalog=script)),
        Sample("pdf launch", ".pdf", write_pdf(catalog=launch)),
        *(
            Sample(f"pdf box {box.decode()}", ".pdf", write_pdf(box=box))
            for box in (b"0 0 0 0", b"0 0 -9 -9", b"0 0 1e9 1e9", b"0 0 14400 0.001", b"a b c d")
        ),
        Sample("pdf turned", ".pdf", write_pdf(page=b"/Rotate 90")),
        Sample("pdf user unit", ".pdf", write_pdf(page=b"/UserUnit 1e30")),
    )


def write_pdf(
    count: int = 1,
    box: bytes = b"0 0 100 100",
    page: bytes = b"",
    catalog: bytes = b"",
    content: bytes = _TEXT,
) -> bytes:
    """Returns a PDF with a correct cross-reference table."""
    kids = b" ".join(b"%d 0 R" % (4 + index) for index in range(count))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R %s >>" % catalog,
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, count),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
    ]
    font = b"<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
    objects += [
        b"<< /Type /Page /Parent 2 0 R /MediaBox [%s] /Resources %s /Contents 3 0 R %s >>"
        % (box, font, page)
    ] * count
    body, offsets = b"%PDF-1.7\n", []
    for number, entry in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, entry)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return (
        body
        + b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\n"
        % (
            len(objects) + 1,
            table,
            len(objects) + 1,
        )
        + b"startxref\n%d\n%%%%EOF\n" % len(body)
    )
