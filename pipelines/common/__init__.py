"""Code that several jobs share: crops, poses, components, outcomes, compatibility with older versions."""
