"""What a protocol would tell, before anyone is scanned."""

from nanopinn.workflows.plan.run import plan_protocol

__all__ = ["plan_protocol"]
