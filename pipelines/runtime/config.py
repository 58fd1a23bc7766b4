"""Configuration of jobs on a cluster."""

from pydantic import BaseModel, ConfigDict, Field


class ClusterConfig(BaseModel):
    """How jobs behave on a Ray cluster; results do not depend on it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    wait_for_nodes_s: float = Field(
        20.0,
        ge=0,
        description="seconds to wait for nodes that can run the job, at its start and after the loss of a node, before "
        "it fails; an autoscaler needs minutes (choice)",
    )
    stop_grace_s: int = Field(
        300,
        ge=0,
        description="seconds between the request to stop a job and its end by force: for a training, one step and the "
        "writing of a state (choice)",
    )
