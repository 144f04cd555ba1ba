"""Texts that break a file format whose writer puts strings together by hand."""

ODD = [  # Texts that break TOML which is put together by hand
    "".join(map(chr, range(32))),
    "\x7f \x80 \x9f \u2028 \ufeff",
    "a \"q\" 'p' \"\"\" ''' # no comment",
    "C:\\new\\u0041 \\",
    "one\r\ntwo\n\n[job]\nname = 1\n",
    "\U0001f600 é a.b = [1] {x}",
]
