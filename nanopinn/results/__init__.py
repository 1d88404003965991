"""Results as frozen data classes without behaviour."""

from nanopinn.results.cohort_result import (
    REPORTED_STATUSES,
    ArmOutcome,
    CohortParameter,
    CohortSummary,
    StudyEstimate,
    StudyStatus,
    StudySummary,
)
from nanopinn.results.fit_result import (
    OBJECTIVE_RISE_95,
    Z_95,
    CheckItem,
    CheckResult,
    Curve,
    EngineRun,
    FieldEstimate,
    FitResult,
    MapEstimate,
    PosteriorSamples,
    Profile,
    ScalarEstimate,
    StartResult,
    StrongestCorrelation,
    VectorEstimate,
    central_interval,
)
from nanopinn.results.plan_result import (
    CandidateGain,
    ExpectedEstimate,
    ImagingStage,
    MinimalImaging,
    Plan,
)
from nanopinn.results.treatment_result import (
    ComparedArm,
    Comparison,
    GlobalSensitivity,
    HeatingDurationSweep,
    InputSensitivity,
    MassBalance,
    Outcome,
    OutcomeChange,
    PenetrationCurves,
    PlasmaExposure,
    RadiationComparison,
    Simulation,
    TimeCourses,
    VoxelCluster,
    median_and_interval,
    probability_of_majority,
)

__all__ = ["OBJECTIVE_RISE_95", "REPORTED_STATUSES", "Z_95", "ArmOutcome", "CandidateGain", "CheckItem", "CheckResult", "CohortParameter", "CohortSummary", "ComparedArm", "Comparison", "Curve", "EngineRun", "ExpectedEstimate", "FieldEstimate", "FitResult", "GlobalSensitivity", "HeatingDurationSweep", "ImagingStage", "InputSensitivity", "MapEstimate", "MassBalance", "MinimalImaging", "Outcome", "OutcomeChange", "PenetrationCurves", "Plan", "PlasmaExposure", "PosteriorSamples", "Profile", "RadiationComparison", "ScalarEstimate", "Simulation", "StartResult", "StrongestCorrelation", "StudyEstimate", "StudyStatus", "StudySummary", "TimeCourses", "VectorEstimate", "VoxelCluster", "central_interval", "median_and_interval", "probability_of_majority"]
