"""What clients do, by group. A scenario is a function of the side; what it returns is what the client has seen."""

ALL = {}


def scenario(function):
    ALL[f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}"] = function
    return function


def caught(function, *args, **kwargs):
    """The answer, or the error as a client sees it."""
    import docker
    try:
        return function(*args, **kwargs)
    except docker.errors.APIError as error:
        return {"status": error.response.status_code, "message": error.explanation}


def shape(value):
    """The keys and types of a value, for what differs from run to run."""
    if isinstance(value, dict):
        return {key: shape(v) for key, v in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


from . import containers, lifecycle, streams, files, images, builds, networks, volumes, system, cli, compose  # noqa: E402,F401
