"""Where people meet prefloop: the pages on which feedback is given and led, and the API that machines use.

app        create_app(store, settings): routes, limits and error pages put together; every route has a rule of access
access     who may call a route, as a type of the route's parameter; what has no rule does not start
desk       the one way in which the app leases questions and takes answers
limits     how large and how deep a request may be; headers that every response carries
rendering  markdown to safe HTML, and the templates
routes/    api, account, work (annotators), lead, admin

Nothing here loads torch, and no page asks another host for anything.
"""

from prefloop.web.app import create_app
from prefloop.web.settings import WebSettings

__all__ = ["WebSettings", "create_app"]
